//! The tokenizer of a tokenizer.json, and what the streaming decoder must know about its decoder.

use tokenizers::decoders::DecoderWrapper;

use crate::{bpe, stream, Result};

/// How text comes out of tokens.
pub enum Decoding {
    /// Every token is a string of bytes, all of them together are UTF-8 (GPT-2 and most later models).
    Bytes,
    /// Anything else. With `byte_fallback`, tokens <0xNN> in a row are bytes that are UTF-8 together or not at all.
    Text { byte_fallback: bool },
}

pub struct Tokenizer {
    pub inner: tokenizers::Tokenizer,
    pub decoding: Decoding,
}

pub fn unsigned(id: i32) -> Result<u32> {
    u32::try_from(id).map_err(|_| format!("token id {id} is negative"))
}

pub fn signed(id: u32) -> Result<i32> {
    i32::try_from(id).map_err(|_| format!("token id {id} of the vocabulary is larger than 2^31 - 1"))
}

/// The decoder's parts in order, nested sequences taken apart.
fn parts<'a>(decoder: &'a DecoderWrapper, out: &mut Vec<&'a DecoderWrapper>) {
    match decoder {
        DecoderWrapper::Sequence(sequence) => sequence.get_decoders().iter().for_each(|inner| parts(inner, out)),
        other => out.push(other),
    }
}

impl Tokenizer {
    pub fn new(json: &str) -> Result<Self> {
        let mut inner = match bpe::read(json) {
            Some(tokenizer) => tokenizer,
            None => json.parse().map_err(|e: tokenizers::Error| e.to_string())?,
        };
        inner.with_padding(None).with_truncation(None).map_err(|e| e.to_string())?;
        let mut decoders = Vec::new();
        if let Some(decoder) = inner.get_decoder() {
            parts(decoder, &mut decoders);
        }
        let bytes = matches!(decoders.split_first(), Some((DecoderWrapper::ByteLevel(_), rest))
            if rest.iter().all(|part| matches!(part, DecoderWrapper::Fuse(_))));
        let decoding = if bytes {
            Decoding::Bytes
        } else {
            let byte_fallback = decoders.iter().any(|part| matches!(part, DecoderWrapper::ByteFallback(_)));
            Decoding::Text { byte_fallback }
        };
        Ok(Self { inner, decoding })
    }

    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<i32>> {
        let encoding = self.inner.encode_fast(text, add_special).map_err(|e| e.to_string())?;
        encoding.get_ids().iter().map(|&id| signed(id)).collect()
    }

    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.decode(ids, skip_special).map_err(|e| e.to_string())
    }

    /// The token that decode() sees for this id: nothing for an unknown id, or for a special one that is skipped.
    pub fn visible(&self, id: u32, skip_special: bool) -> Option<String> {
        let token = self.inner.id_to_token(id)?;
        (!skip_special || !self.inner.get_added_vocabulary().is_special_token(&token)).then_some(token)
    }

    /// The bytes that a token stands for in the middle of a text; of a special one, its name.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let Some(token) = self.inner.id_to_token(id) else {
            return Vec::new();
        };
        match self.decoding {
            Decoding::Bytes => {
                let mut bytes = Vec::new();
                stream::push_bytes(&token, &mut bytes);
                bytes
            }
            Decoding::Text { byte_fallback } => match stream::byte(&token) {
                Some(byte) if byte_fallback => vec![byte],
                _ => token.replace('\u{2581}', " ").into_bytes(),
            },
        }
    }
}
