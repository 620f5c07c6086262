//! Decoding one id at a time: the pieces together are what decode() makes of all ids, and each costs the same.
//!
//! The library's own decode stream is not used: it never gives out text again after a byte that is no UTF-8, and
//! decodes a growing list until then.

use std::sync::Arc;

use crate::tokenizer::{Decoding, Tokenizer};
use crate::Result;

pub struct Stream {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    /// Decoding::Bytes: the start of a character that is not complete yet, at most 3 bytes between calls.
    bytes: Vec<u8>,
    /// Decoding::Text: the last tokens that were given out, which the text of the next ones may depend on (the first
    /// token of a text loses its space), and their own text.
    context: Vec<u32>,
    context_text: String,
    pending: Vec<u32>,
}

/// As many of the last tokens as it takes to have a text of their own serve as context, but no more than these.
const MAX_CONTEXT: usize = 4;
/// Tokens that wait for the end of a character; a character has at most 4 bytes, so more than that is no text.
const MAX_PENDING: usize = 32;

impl Stream {
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Self {
        Self {
            tokenizer,
            skip_special,
            bytes: Vec::new(),
            context: Vec::new(),
            context_text: String::new(),
            pending: Vec::new(),
        }
    }

    pub fn add(&mut self, id: u32) -> Result<String> {
        let Some(token) = self.tokenizer.visible(id, self.skip_special) else {
            return Ok(String::new());
        };
        match self.tokenizer.decoding {
            Decoding::Bytes => {
                push_bytes(&token, &mut self.bytes);
                Ok(take_characters(&mut self.bytes))
            }
            Decoding::Text { byte_fallback } => {
                self.pending.push(id);
                if byte_fallback && byte(&token).is_some() {
                    return Ok(String::new()); // one wrong byte later and all bytes of the row become U+FFFD
                }
                self.flush(false)
            }
        }
    }

    pub fn finish(&mut self) -> Result<String> {
        let piece = match self.tokenizer.decoding {
            Decoding::Bytes => String::from_utf8_lossy(&self.bytes).into_owned(),
            Decoding::Text { .. } => self.flush(true)?,
        };
        self.bytes.clear();
        self.context.clear();
        self.context_text.clear();
        self.pending.clear();
        Ok(piece)
    }

    fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids, self.skip_special)
    }

    /// The text of the pending tokens, which then become the context.
    fn flush(&mut self, at_end: bool) -> Result<String> {
        let all = [self.context.as_slice(), self.pending.as_slice()].concat();
        let text = self.decode(&all)?;
        let known = common_prefix(&text, &self.context_text);
        if !at_end {
            // Half a character: its other bytes are still to come.
            if text.ends_with('\u{FFFD}') && self.pending.len() < MAX_PENDING {
                return Ok(String::new());
            }
            if known == text.len() {
                // No text of its own (yet). A token in the middle of a row of such tokens cannot matter.
                if self.pending.len() > MAX_PENDING {
                    self.pending.remove(1);
                }
                return Ok(String::new());
            }
        }
        let piece = text[known..].to_string();
        self.pending.clear();
        for count in 1..=all.len().min(MAX_CONTEXT) {
            self.context = all[all.len() - count..].to_vec();
            self.context_text = self.decode(&self.context)?;
            if !self.context_text.is_empty() {
                break;
            }
        }
        Ok(piece)
    }
}

fn common_prefix(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(x, y)| x == y).map(|(x, _)| x.len_utf8()).sum()
}

/// The byte of a token <0xNN>.
pub fn byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let plain = digits.len() == 2 && digits.bytes().all(|c| c.is_ascii_hexdigit());
    plain.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// GPT-2's spelling of bytes: the visible characters of Latin-1 stand for themselves, the other 68 bytes in order for
/// U+0100 and up.
fn byte_of(c: char) -> Option<u8> {
    let visible = |code: u32| matches!(code, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    match c as u32 {
        code if visible(code) => Some(code as u8),
        code @ 0x100..=0x143 => (0..=255u32).filter(|&b| !visible(b)).nth(code as usize - 0x100).map(|b| b as u8),
        _ => None,
    }
}

/// A token with any other character (an added one) is taken as it is written.
pub fn push_bytes(token: &str, out: &mut Vec<u8>) {
    let before = out.len();
    for c in token.chars() {
        match byte_of(c) {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(before);
                out.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

/// Takes the complete characters; bytes that cannot become one turn into U+FFFD as in String::from_utf8_lossy.
fn take_characters(bytes: &mut Vec<u8>) -> String {
    let mut out = String::new();
    let mut rest = bytes.as_slice();
    loop {
        match std::str::from_utf8(rest) {
            Ok(text) => {
                out.push_str(text);
                rest = &[];
                break;
            }
            Err(error) => {
                let (valid, after) = rest.split_at(error.valid_up_to());
                out.push_str(&String::from_utf8_lossy(valid));
                rest = after;
                match error.error_len() {
                    Some(wrong) => {
                        out.push('\u{FFFD}');
                        rest = &rest[wrong..];
                    }
                    None => break,
                }
            }
        }
    }
    *bytes = rest.to_vec();
    out
}
