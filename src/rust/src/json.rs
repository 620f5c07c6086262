//! The tojson filter as transformers defines it: Python's json.dumps with ensure_ascii=False.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, Value};

struct Style {
    ensure_ascii: bool,
    /// One level of indentation; without it everything stands on one line.
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// `options` in order: ensure_ascii, indent, separators, sort_keys.
pub fn tojson(value: &Value, options: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let option = |position: usize, name: &str| -> Result<Option<Value>, Error> {
        let value = match options.get(position) {
            Some(value) => Some(value.clone()),
            None => kwargs.get::<Option<Value>>(name)?,
        };
        Ok(value.filter(|value| !value.is_none()))
    };
    let is_set = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let ensure_ascii = is_set(option(0, "ensure_ascii")?);
    let indent = match option(1, "indent")? {
        None => None,
        Some(value) => Some(match value.as_str() {
            Some(text) => text.to_string(),
            None if value.kind() == ValueKind::Bool => " ".repeat(value.is_true() as usize),
            None => {
                let width =
                    value.as_i64().ok_or_else(|| invalid("tojson: indent must be a number or a string".into()))?;
                " ".repeat(width.clamp(0, 64) as usize)
            }
        }),
    };
    let (item_separator, key_separator) = match option(2, "separators")? {
        None if indent.is_some() => (",".to_string(), ": ".to_string()),
        None => (", ".to_string(), ": ".to_string()),
        Some(pair) => (pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string()),
    };
    let sort_keys = is_set(option(3, "sort_keys")?);
    kwargs.assert_all_used()?;
    let mut out = String::new();
    write(value, &Style { ensure_ascii, indent, item_separator, key_separator, sort_keys }, 0, &mut out)?;
    Ok(Value::from(out))
}

fn write(value: &Value, style: &Style, depth: usize, out: &mut String) -> Result<(), Error> {
    if depth > 200 {
        return Err(invalid("tojson: nested more than 200 deep".into()));
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => write_string(value.as_str().unwrap_or_default(), style, out),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            write_all(&items, ('[', ']'), style, depth, out, |item, out| write(item, style, depth + 1, out))?;
        }
        ValueKind::Map => {
            let mut members = Vec::new();
            for key in value.try_iter()? {
                let name = match key.kind() {
                    ValueKind::String => key.as_str().unwrap_or_default().to_string(),
                    ValueKind::Number => number(&key),
                    ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_string(),
                    ValueKind::None => "null".to_string(),
                    kind => return Err(invalid(format!("tojson: a key cannot be a {kind}"))),
                };
                members.push((name, value.get_item(&key)?));
            }
            if style.sort_keys {
                members.sort_by(|a, b| a.0.cmp(&b.0));
            }
            write_all(&members, ('{', '}'), style, depth, out, |(name, member), out| {
                write_string(name, style, out);
                out.push_str(&style.key_separator);
                write(member, style, depth + 1, out)
            })?;
        }
        kind => return Err(invalid(format!("tojson: a value of kind {kind} is not JSON serializable"))),
    }
    Ok(())
}

fn write_all<T>(
    items: &[T],
    brackets: (char, char),
    style: &Style,
    depth: usize,
    out: &mut String,
    mut write_one: impl FnMut(&T, &mut String) -> Result<(), Error>,
) -> Result<(), Error> {
    let new_line = |out: &mut String, depth: usize| {
        if let (Some(indent), false) = (&style.indent, items.is_empty()) {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    };
    out.push(brackets.0);
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push_str(&style.item_separator);
        }
        new_line(out, depth + 1);
        write_one(item, out)?;
    }
    new_line(out, depth);
    out.push(brackets.1);
    Ok(())
}

/// A number as Python prints it.
fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => float_text(float),
        _ => value.to_string(),
    }
}

pub fn float_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    // Rust's shortest form changes to exponents where Python's does, but writes 1e-5 for 1e-05 and 1e16 for 1e+16.
    let text = format!("{value:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
            format!("{}e{sign}{exponent:0>2}", digits.strip_suffix(".0").unwrap_or(digits))
        }
    }
}

fn write_string(text: &str, style: &Style, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || (style.ensure_ascii && (c as u32) > 0x7e) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
