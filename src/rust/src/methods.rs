//! Python methods that templates call and minijinja-contrib's table lacks.

use minijinja::value::{from_args, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

pub fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match (value.kind(), method) {
        (ValueKind::String, _) => {
            let text = value.as_str().unwrap_or_default();
            match string_method(text, method, args)? {
                Some(result) => Ok(result),
                None => pycompat::unknown_method_callback(state, value, method, args),
            }
        }
        (ValueKind::Map, "copy") => {
            let () = from_args(args)?;
            Ok(value.clone())
        }
        (ValueKind::Seq, "index") => {
            let (wanted,): (&Value,) = from_args(args)?;
            let position = value.try_iter()?.position(|item| item == *wanted);
            position.map(Value::from).ok_or_else(|| not_found(wanted))
        }
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn not_found(wanted: &Value) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("index: {wanted} is not there"))
}

fn triple(parts: [&str; 3]) -> Option<Value> {
    Some(Value::from(Tuple::from(parts.map(Value::from))))
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(match method {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Some(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Some(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            match text.split_once(separator) {
                Some((before, after)) => triple([before, separator, after]),
                None => triple([text, "", ""]),
            }
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            match text.rsplit_once(separator) {
                Some((before, after)) => triple([before, separator, after]),
                None => triple(["", "", text]),
            }
        }
        "rsplit" if !args.is_empty() && !args[0].is_none() => {
            let (separator, most): (&str, Option<i64>) = from_args(args)?;
            if separator.is_empty() {
                return Err(Error::new(ErrorKind::InvalidOperation, "rsplit: empty separator"));
            }
            let pieces = match most {
                Some(most) if most >= 0 => (most as usize).saturating_add(1),
                _ => usize::MAX,
            };
            let mut parts: Vec<&str> = text.rsplitn(pieces, separator).collect();
            parts.reverse();
            Some(parts.into_iter().map(Value::from).collect())
        }
        "index" => {
            let (wanted,): (&str,) = from_args(args)?;
            let at = text.find(wanted).ok_or_else(|| not_found(&args[0]))?;
            Some(Value::from(text[..at].chars().count()))
        }
        "casefold" => {
            let () = from_args(args)?;
            Some(Value::from(text.to_lowercase()))
        }
        "zfill" | "ljust" | "rjust" => {
            let (width, fill): (usize, Option<&str>) = from_args(args)?;
            let fill = if method == "zfill" { "0" } else { fill.unwrap_or(" ") };
            let padding = fill.repeat(width.min(10_000).saturating_sub(text.chars().count()));
            Some(Value::from(match method {
                "ljust" => format!("{text}{padding}"),
                _ => format!("{padding}{text}"),
            }))
        }
        _ => None,
    })
}
