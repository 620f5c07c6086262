//! Chat templates as transformers renders them: Jinja with trim_blocks, lstrip_blocks, loop controls and the functions
//! that transformers adds.

use std::ffi::CString;
use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};
use serde_json::Value as Json;

use crate::{json, methods, Result};

/// Steps that one rendering may take: templates come from strangers and may loop. A long chat takes some thousands.
const FUEL: u64 = 20_000_000;
const NAME: &str = "chat_template";

pub struct ChatTemplate {
    environment: Environment<'static>,
}

/// What raise_exception was called with.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

impl ChatTemplate {
    pub fn new(source: &str) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(|e| message(&e))?;
        environment.set_syntax(syntax);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(methods::call);
        environment.set_fuel(Some(FUEL));
        environment.add_filter("tojson", json::tojson);
        environment.add_test("sequence", |value: &Value| {
            matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Undefined)
        });
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_function("cycler", minijinja_contrib::globals::cycler);
        environment.add_function("joiner", minijinja_contrib::globals::joiner);
        environment.add_template_owned(NAME, generation_as_with(source)).map_err(|e| message(&e))?;
        Ok(Self { environment })
    }

    pub fn render(
        &self,
        messages: &str,
        variables: &str,
        bos_token: &str,
        eos_token: &str,
        add_generation_prompt: bool,
    ) -> Result<String> {
        let mut messages: Json = serde_json::from_str(messages).map_err(|e| format!("the chat is not JSON: {e}"))?;
        let list = messages.as_array_mut().ok_or("the chat is not a JSON array of messages")?;
        for item in list.iter_mut() {
            let members = item.as_object_mut().ok_or("a message of the chat is not a JSON object")?;
            // As transformers: a member that is null counts as missing.
            members.retain(|_, value| !value.is_null());
        }
        let given: Json =
            serde_json::from_str(variables).map_err(|e| format!("the template's variables are not JSON: {e}"))?;
        let Json::Object(given) = given else {
            return Err("the template's variables are not a JSON object".into());
        };
        let mut context: Vec<(String, Value)> = vec![
            ("tools".into(), Value::from(())),
            ("documents".into(), Value::from(())),
            ("bos_token".into(), Value::from(bos_token)),
            ("eos_token".into(), Value::from(eos_token)),
        ];
        context.extend(given.into_iter().map(|(name, value)| (name, template_value(value))));
        context.push(("messages".into(), template_value(messages)));
        context.push(("add_generation_prompt".into(), Value::from(add_generation_prompt)));
        let template = self.environment.get_template(NAME).map_err(|e| message(&e))?;
        template.render(Value::from_pairs(context)).map_err(|e| message(&e))
    }
}

/// serde_json bounds how deep it is.
fn template_value(json: Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (_, Some(number)) => Value::from(number),
            _ => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text),
        Json::Array(items) => items.into_iter().map(template_value).collect(),
        Json::Object(members) => {
            Value::from_pairs(members.into_iter().map(|(name, value)| (name, template_value(value))))
        }
    }
}

/// The template's own message if it raised one, else the error with its line.
fn message(error: &Error) -> String {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(raised) = current.downcast_ref::<Raised>() {
            return raised.0.clone();
        }
        cause = current.source();
    }
    if error.kind() == ErrorKind::OutOfFuel {
        return format!("it does not end within {FUEL} steps");
    }
    let place = error.line().map(|line| format!(" (line {line} of the template)")).unwrap_or_default();
    match error.detail() {
        Some(detail) => format!("{}: {detail}{place}", error.kind()),
        None => format!("{}{place}", error.kind()),
    }
}

fn raise_exception(message: &Value) -> std::result::Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raised by the template").with_source(Raised(message.to_string())))
}

/// Local time in the C library's format, which Python's strftime is built on.
fn strftime_now(format: &str) -> std::result::Result<String, Error> {
    if format.is_empty() {
        return Ok(String::new());
    }
    let bad = |_| Error::new(ErrorKind::InvalidOperation, "strftime_now: the format contains a zero byte");
    let format = CString::new(format).map_err(bad)?;
    let mut buffer = vec![0u8; 1024];
    // SAFETY: localtime_r fills `time`, and strftime writes at most buffer.len() bytes and returns how many.
    let length = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut time: libc::tm = std::mem::zeroed();
        libc::localtime_r(&now, &mut time);
        libc::strftime(buffer.as_mut_ptr().cast(), buffer.len(), format.as_ptr(), &time)
    };
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// transformers' `{% generation %}` marks the assistant's words for training and opens a scope; for rendering it is a
/// `{% with %}` without variables. Line ends become \n, as Jinja does.
fn generation_as_with(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    let mut raw = false;
    while let Some(start) = rest.find('{') {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let length = match tag.as_bytes().get(1) {
            Some(b'#') if !raw => tag.find("#}").map_or(tag.len(), |end| end + 2),
            Some(b'{') if !raw => tag_length(tag, "}}"),
            Some(b'%') => tag_length(tag, "%}"),
            _ => 1,
        };
        let (tag, after) = tag.split_at(length);
        let is_block = tag.starts_with("{%") && tag.ends_with("%}") && tag.len() >= 4;
        let word = if is_block { tag[2..tag.len() - 2].trim_matches(['-', '+']).trim() } else { "" };
        match word {
            "raw" => raw = true,
            "endraw" => raw = false,
            _ => {}
        }
        match word {
            "generation" if !raw => out.push_str(&tag.replace("generation", "with")),
            "endgeneration" if !raw => out.push_str(&tag.replace("endgeneration", "endwith")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Length of the tag that `text` starts with; its end within a string does not count.
fn tag_length(text: &str, end: &str) -> usize {
    let mut quote = None;
    let mut skip = false;
    for (at, c) in text.char_indices().skip(2) {
        match quote {
            Some(_) if skip => skip = false,
            Some(_) if c == '\\' => skip = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '\'' || c == '"' => quote = Some(c),
            None if text[at..].starts_with(end) => return at + end.len(),
            None => {}
        }
    }
    text.len()
}
