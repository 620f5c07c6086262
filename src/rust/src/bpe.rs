//! A quicker way to read a tokenizer.json with a BPE model, which nearly all have.
//!
//! The library reads the model into a general JSON tree first, to find out its kind; with a vocabulary of 49 thousand
//! that is most of the time of loading. Here vocabulary and merges are read straight into their tables, and everything
//! else is left to the library. What is unusual in any way gives None and goes the library's way, errors included.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use tokenizers::models::bpe::{Merges, Vocab, BPE};
use tokenizers::models::ModelWrapper;
use tokenizers::{AddedToken, Tokenizer};

type Members<'a> = BTreeMap<String, &'a RawValue>;

pub fn read(json: &str) -> Option<Tokenizer> {
    let mut members: Members = serde_json::from_str(json).ok()?;
    let model = read_model(members.remove("model")?.get())?;
    let added = members.remove("added_tokens").map_or("[]", RawValue::get);
    let added: Vec<AddedToken> = serde_json::from_str(added).ok()?;

    let mut rest = String::from(r#"{"model": {"type": "BPE", "vocab": {}, "merges": []}"#);
    for (name, value) in &members {
        rest += &format!(", {}: {}", serde_json::to_string(name).ok()?, value.get());
    }
    rest.push('}');
    let mut tokenizer: Tokenizer = rest.parse().ok()?;
    tokenizer.with_model(ModelWrapper::BPE(model));
    // Only now: their ids are those of the model's vocabulary, or follow it.
    tokenizer.add_tokens(added).ok()?;
    Some(tokenizer)
}

fn read_model(json: &str) -> Option<BPE> {
    let members: Members = serde_json::from_str(json).ok()?;
    if members.get("type")?.get() != r#""BPE""# {
        return None;
    }
    let vocab: Vocab = serde_json::from_str(members.get("vocab")?.get()).ok()?;
    let merges = read_merges(members.get("merges")?.get())?;
    let mut builder = BPE::builder().vocab_and_merges(vocab, merges);
    for (name, value) in &members {
        let text = || serde_json::from_str::<String>(value.get()).ok();
        let flag = || serde_json::from_str::<bool>(value.get()).ok();
        builder = match name.as_str() {
            "type" | "vocab" | "merges" => builder,
            _ if value.get() == "null" => builder,
            "unk_token" => builder.unk_token(text()?),
            "continuing_subword_prefix" => builder.continuing_subword_prefix(text()?),
            "end_of_word_suffix" => builder.end_of_word_suffix(text()?),
            "fuse_unk" => builder.fuse_unk(flag()?),
            "byte_fallback" => builder.byte_fallback(flag()?),
            "ignore_merges" => builder.ignore_merges(flag()?),
            _ => return None,
        };
    }
    builder.build().ok()
}

/// Pairs, or in older files "left right".
fn read_merges(json: &str) -> Option<Merges> {
    if let Ok(lines) = serde_json::from_str::<Vec<String>>(json) {
        let pair = |line: &String| {
            let (left, right) = line.split_once(' ')?;
            (!right.contains(' ')).then(|| (left.to_string(), right.to_string()))
        };
        return lines.iter().filter(|line| !line.starts_with("#version")).map(pair).collect();
    }
    serde_json::from_str(json).ok()
}
