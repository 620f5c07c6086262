//! Which tokens may come next under a JSON schema, a regular expression or a grammar: llguidance over the bytes of a
//! tokenizer's tokens.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{json, Value};

use crate::tokenizer::Tokenizer;
use crate::Result;

/// The tokens of a model, arranged so that many are ruled out at once; made once, shared by all grammars.
pub struct Vocabulary {
    factory: ParserFactory,
    size: usize,
    end_tokens: Vec<usize>,
}

pub enum Kind {
    JsonSchema,
    Regex,
    Lark,
}

pub struct Grammar {
    vocabulary: Arc<Vocabulary>,
    matcher: Matcher,
}

impl Vocabulary {
    /// `size`: of the model's logits, which may have more entries than there are tokens.
    pub fn new(tokenizer: &Tokenizer, size: usize, end_tokens: &[u32]) -> Result<Self> {
        let mut words: Vec<Vec<u8>> = (0..size as u32)
            .map(|id| match tokenizer.inner.id_to_token(id) {
                None => Vec::new(),
                Some(token) if tokenizer.inner.get_added_vocabulary().is_special_token(&token) => special(&token),
                Some(_) => tokenizer.token_bytes(id),
            })
            .collect();
        // The end has an id of its own behind the others: a model may have several end tokens.
        words.push(special("<end>"));
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, size as u32), &words);
        let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&tokens).map_err(|e| e.to_string())?;
        factory.quiet();
        // What has been written does not belong into errors.
        factory.limits_mut().verbose_errors = false;
        let end_tokens = end_tokens.iter().map(|&id| id as usize).filter(|&id| id < size).collect();
        Ok(Self { factory, size, end_tokens })
    }
}

/// No text matches it: special tokens stand behind a byte that UTF-8 does not have.
fn special(token: &str) -> Vec<u8> {
    [&[TokTrie::SPECIAL_TOKEN_MARKER], token.as_bytes()].concat()
}

/// JSON in one line, unless the schema itself says otherwise: a model could write spaces for ever.
fn compact(schema: &mut Value) {
    if let Value::Object(members) = schema {
        members
            .entry("x-guidance")
            .or_insert_with(|| json!({"whitespace_flexible": false, "key_separator": ": ", "item_separator": ", "}));
    }
}

impl Grammar {
    pub fn new(vocabulary: Arc<Vocabulary>, kind: Kind, text: &str) -> Result<Self> {
        let grammar = match kind {
            Kind::JsonSchema => {
                let mut schema: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
                compact(&mut schema);
                TopLevelGrammar::from_json_schema(schema)
            }
            Kind::Regex => TopLevelGrammar::from_regex(text),
            Kind::Lark => TopLevelGrammar::from_lark(text.to_string()),
        };
        let parser = vocabulary.factory.create_parser(grammar).map_err(|e| e.to_string())?;
        Ok(Self { vocabulary, matcher: Matcher::new(Ok(parser)) })
    }

    /// Sets the logits of tokens that may not come to -infinity.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
        let size = self.vocabulary.size;
        if logits.len() != size {
            return Err(format!("{} logits; the grammar's vocabulary has {size}", logits.len()));
        }
        let allowed = self.matcher.compute_mask_or_eos().map_err(|e| e.to_string())?;
        let may_end = allowed.is_allowed(size as u32);
        let ends: Vec<f32> = self.vocabulary.end_tokens.iter().map(|&id| logits[id]).collect();
        for (word, chunk) in allowed.as_slice().iter().zip(logits.chunks_mut(32)) {
            for (bit, logit) in chunk.iter_mut().enumerate() {
                if word >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        for (&id, logit) in self.vocabulary.end_tokens.iter().zip(ends) {
            logits[id] = if may_end { logit } else { f32::NEG_INFINITY };
        }
        Ok(())
    }

    pub fn accept(&mut self, id: u32) -> Result<()> {
        self.matcher.consume_token(id).map_err(|e| e.to_string())
    }

    /// Nothing may come any more but the end.
    pub fn finished(&self) -> bool {
        self.matcher.is_stopped()
    }
}
