//! The C interface (tq_text.h, tq_grammar.h, tq_http.h, tq_picture.h; that of tq_line.h is in line.rs): checks and converts
//! arguments, catches panics, and calls the modules. What a caller must keep to is said there, for all functions together.
#![allow(clippy::missing_safety_doc)]

mod bpe;
mod chat;
mod digest;
mod grammar;
mod http;
mod json;
mod line;
mod methods;
mod picture;
mod stream;
mod tokenizer;

use std::cell::Cell;
use std::ffi::c_int;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Once};
use std::time::Duration;

use chat::ChatTemplate;
use digest::Digest;
use grammar::{Grammar, Kind, Vocabulary};
use http::{Event, Next, Request};
use stream::Stream;
use tokenizer::Tokenizer;

#[repr(C)]
pub struct TqText {
    data: *mut u8,
    size: usize,
}

#[repr(C)]
pub struct TqIds {
    data: *mut i32,
    size: usize,
}

type Result<T> = std::result::Result<T, String>;

fn give<T>(items: Vec<T>) -> (*mut T, usize) {
    if items.is_empty() {
        return (std::ptr::null_mut(), 0);
    }
    let items = Box::leak(items.into_boxed_slice());
    (items.as_mut_ptr(), items.len())
}

unsafe fn take_back<T>(data: *mut T, size: usize) {
    if !data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(data, size)));
    }
}

unsafe fn slice<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if size == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(data, size)
    }
}

unsafe fn text<'a>(data: *const u8, size: usize, what: &str) -> Result<&'a str> {
    std::str::from_utf8(slice(data, size)).map_err(|e| format!("{what} is not valid UTF-8 at byte {}", e.valid_up_to()))
}

unsafe fn put_text(out: *mut TqText, value: String) {
    put_bytes(out, value.into_bytes());
}

unsafe fn put_bytes(out: *mut TqText, value: Vec<u8>) {
    let (data, size) = give(value);
    *out = TqText { data, size };
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `body` and makes an error of a panic. A panic here is bad input that a library did not expect, so it is
/// reported like any other bad input and not printed on stderr.
fn caught(body: impl FnOnce() -> Result<()>) -> Result<()> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !INSIDE.with(Cell::get) {
                previous(info);
            }
        }));
    });
    INSIDE.with(|inside| inside.set(true));
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        Err(message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown failure").to_string())
    });
    INSIDE.with(|inside| inside.set(false));
    result
}

/// Runs `body`; an error or a panic becomes one line in `error`.
unsafe fn guarded(error: *mut TqText, body: impl FnOnce() -> Result<()>) -> c_int {
    match caught(body) {
        Ok(()) => 0,
        Err(message) => {
            put_text(error, message.split_whitespace().collect::<Vec<_>>().join(" "));
            1
        }
    }
}

#[no_mangle]
pub unsafe extern "C" fn tq_text_free(text: TqText) {
    take_back(text.data, text.size);
}

#[no_mangle]
pub unsafe extern "C" fn tq_ids_free(ids: TqIds) {
    take_back(ids.data, ids.size);
}

/// A tokenizer as C holds it: shared, so that streams keep it alive.
pub struct TqTokenizer(Arc<Tokenizer>);

#[no_mangle]
pub unsafe extern "C" fn tq_tokenizer_new(
    json: *const u8,
    size: usize,
    out: *mut *mut TqTokenizer,
    error: *mut TqText,
) -> c_int {
    guarded(error, || {
        let tokenizer = Tokenizer::new(text(json, size, "the file")?)?;
        *out = Box::into_raw(Box::new(TqTokenizer(Arc::new(tokenizer))));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tq_tokenizer_free(tokenizer: *mut TqTokenizer) {
    if !tokenizer.is_null() {
        drop(Box::from_raw(tokenizer));
    }
}

#[no_mangle]
pub unsafe extern "C" fn tq_tokenizer_encode(
    tokenizer: &TqTokenizer,
    data: *const u8,
    size: usize,
    add_special: c_int,
    out: *mut TqIds,
    error: *mut TqText,
) -> c_int {
    guarded(error, || {
        let ids = tokenizer.0.encode(text(data, size, "the text")?, add_special != 0)?;
        let (data, size) = give(ids);
        *out = TqIds { data, size };
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tq_tokenizer_decode(
    tokenizer: &TqTokenizer,
    ids: *const i32,
    count: usize,
    skip_special: c_int,
    out: *mut TqText,
    error: *mut TqText,
) -> c_int {
    guarded(error, || {
        let ids: Result<Vec<u32>> = slice(ids, count).iter().map(|&id| tokenizer::unsigned(id)).collect();
        put_text(out, tokenizer.0.decode(&ids?, skip_special != 0)?);
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tq_tokenizer_token_to_id(
    tokenizer: &TqTokenizer,
    token: *const u8,
    size: usize,
    id: *mut i32,
    error: *mut TqText,
) -> c_int {
    guarded(error, || {
        *id = match tokenizer.0.inner.token_to_id(text(token, size, "the token")?) {
            Some(id) => tokenizer::signed(id)?,
            None => -1,
        };
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tq_tokenizer_id_to_token(
    tokenizer: &TqTokenizer,
    id: i32,
    found: *mut c_int,
    out: *mut TqText,
    error: *mut TqText,
) -> c_int {
    guarded(error, || {
        let token = u32::try_from(id).ok().and_then(|id| tokenizer.0.inner.id_to_token(id));
        *found = token.is_some() as c_int;
        put_text(out, token.unwrap_or_default());
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tq_tokenizer_vocab_size(tokenizer: &TqTokenizer, size: *mut i64, error: *mut TqText) -> c_int {
    guarded(error, || {
        *size = tokenizer.0.inner.get_vocab_size(true) as i64;
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tq_tokenizer_token_bytes(
    tokenizer: &TqTokenizer,
    id: i32,
    out: *mut TqText,
    error: *mut TqText,
) -> c_int {
    guarded(error, || {
        put_bytes(out, tokenizer.0.token_bytes(tokenizer::unsigned(id)?));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tq_stream_new(
    tokenizer: &TqTokenizer,
    skip_special: c_int,
    out: *mut *mut Stream,
    error: *mut TqText,
) -> c_int {
    guarded(error, || {
        *out = Box::into_raw(Box::new(Stream::new(tokenizer.0.clone(), skip_special != 0)));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tq_stream_free(stream: *mut Stream) {
    if !stream.is_null() {
        drop(Box::from_raw(stream));
    }
}

#[no_mangle]
pub unsafe extern "C" fn tq_stream_add(stream: &mut Stream, id: i32, out: *mut TqText, error: *mut TqText) -> c_int {
    guarded(error, || {
        put_text(out, stream.add(tokenizer::unsigned(id)?)?);
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tq_stream_finish(stream: &mut Stream, out: *mut TqText, error: *mut TqText) -> c_int {
    guarded(error, || {
        put_text(out, stream.finish()?);
        Ok(())
    })
}

/// A vocabulary as C holds it: shared, so that grammars keep it alive.
pub struct TqVocabulary(Arc<Vocabulary>);

#[no_mangle]
pub unsafe extern "C" fn tq_vocabulary_new(
    tokenizer: &TqTokenizer,
    size: usize,
    end_tokens: *const i32,
    end_count: usize,
    out: *mut *mut TqVocabulary,
    error: *mut TqText,
) -> c_int {
    guarded(error, || {
        let ends: Result<Vec<u32>> = slice(end_tokens, end_count).iter().map(|&id| tokenizer::unsigned(id)).collect();
        let vocabulary = Vocabulary::new(&tokenizer.0, size, &ends?)?;
        *out = Box::into_raw(Box::new(TqVocabulary(Arc::new(vocabulary))));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tq_vocabulary_free(vocabulary: *mut TqVocabulary) {
    if !vocabulary.is_null() {
        drop(Box::from_raw(vocabulary));
    }
}

#[no_mangle]
pub unsafe extern "C" fn tq_grammar_new(
    vocabulary: &TqVocabulary,
    kind: c_int,
    data: *const u8,
    size: usize,
    out: *mut *mut Grammar,
    error: *mut TqText,
) -> c_int {
    guarded(error, || {
        let kind = match kind {
            0 => Kind::JsonSchema,
            1 => Kind::Regex,
            _ => Kind::Lark,
        };
        let grammar = Grammar::new(vocabulary.0.clone(), kind, text(data, size, "the grammar")?)?;
        *out = Box::into_raw(Box::new(grammar));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tq_grammar_free(grammar: *mut Grammar) {
    if !grammar.is_null() {
        drop(Box::from_raw(grammar));
    }
}

#[no_mangle]
pub unsafe extern "C" fn tq_grammar_mask(
    grammar: &mut Grammar,
    logits: *mut f32,
    count: usize,
    error: *mut TqText,
) -> c_int {
    guarded(error, || grammar.mask(std::slice::from_raw_parts_mut(logits, count)))
}

#[no_mangle]
pub unsafe extern "C" fn tq_grammar_accept(grammar: &mut Grammar, id: i32, error: *mut TqText) -> c_int {
    guarded(error, || grammar.accept(tokenizer::unsigned(id)?))
}

#[no_mangle]
pub extern "C" fn tq_grammar_finished(grammar: &Grammar) -> c_int {
    grammar.finished() as c_int
}

#[no_mangle]
pub unsafe extern "C" fn tq_template_new(
    source: *const u8,
    size: usize,
    out: *mut *mut ChatTemplate,
    error: *mut TqText,
) -> c_int {
    guarded(error, || {
        *out = Box::into_raw(Box::new(ChatTemplate::new(text(source, size, "the template")?)?));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tq_template_free(chat: *mut ChatTemplate) {
    if !chat.is_null() {
        drop(Box::from_raw(chat));
    }
}

#[no_mangle]
pub unsafe extern "C" fn tq_template_render(
    chat: &ChatTemplate,
    messages: *const u8,
    messages_size: usize,
    variables: *const u8,
    variables_size: usize,
    bos_token: *const u8,
    bos_size: usize,
    eos_token: *const u8,
    eos_size: usize,
    add_generation_prompt: c_int,
    out: *mut TqText,
    error: *mut TqText,
) -> c_int {
    guarded(error, || {
        let messages = text(messages, messages_size, "the chat")?;
        let variables = text(variables, variables_size, "the template's variables")?;
        let bos_token = text(bos_token, bos_size, "the begin token")?;
        let eos_token = text(eos_token, eos_size, "the end token")?;
        put_text(out, chat.render(messages, variables, bos_token, eos_token, add_generation_prompt != 0)?);
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tq_http_start(
    method: *const u8,
    method_size: usize,
    url: *const u8,
    url_size: usize,
    headers: *const u8,
    headers_size: usize,
    patience_s: u32,
    out: *mut *mut Request,
    error: *mut TqText,
) -> c_int {
    guarded(error, || {
        let method = text(method, method_size, "the method")?;
        let url = text(url, url_size, "the address")?;
        let headers = text(headers, headers_size, "a header")?;
        let request = Request::start(method, url, headers, Duration::from_secs(patience_s.into()))?;
        *out = Box::into_raw(Box::new(request));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tq_http_free(request: *mut Request) {
    if !request.is_null() {
        drop(Box::from_raw(request));
    }
}

#[no_mangle]
pub unsafe extern "C" fn tq_http_next(
    request: &mut Request,
    wait_ms: u32,
    event: *mut c_int,
    status: *mut c_int,
    data: *mut TqText,
    error: *mut TqText,
) -> c_int {
    guarded(error, || {
        *event = match request.next(Duration::from_millis(wait_ms.into())) {
            Next::Pending => 0,
            Next::Event(Event::Head(code, headers)) => {
                *status = code.into();
                put_text(data, headers);
                1
            }
            Next::Event(Event::Data(bytes)) => {
                put_bytes(data, bytes);
                2
            }
            Next::Event(Event::Failed(message)) => return Err(message),
            Next::End => 3,
        };
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tq_picture_png(
    svg: *const u8,
    size: usize,
    scale: f32,
    out: *mut TqText,
    error: *mut TqText,
) -> c_int {
    guarded(error, || {
        put_bytes(out, picture::png(text(svg, size, "the picture")?, scale)?);
        Ok(())
    })
}

#[no_mangle]
pub extern "C" fn tq_digest_new(sha1: c_int) -> *mut Digest {
    Box::into_raw(Box::new(Digest::new(sha1 != 0)))
}

#[no_mangle]
pub unsafe extern "C" fn tq_digest_free(digest: *mut Digest) {
    if !digest.is_null() {
        drop(Box::from_raw(digest));
    }
}

#[no_mangle]
pub unsafe extern "C" fn tq_digest_update(digest: &mut Digest, data: *const u8, size: usize) {
    digest.update(slice(data, size));
}

#[no_mangle]
pub unsafe extern "C" fn tq_digest_hex(digest: &Digest, out: *mut TqText) {
    put_text(out, digest.hex());
}
