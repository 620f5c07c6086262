//! Editing of a line in a terminal (tq_line.h), by rustyline: history, completion of commands, pasted text of many lines.
//! Its C side is here, too: no other module needs it.

use std::ffi::c_int;
use std::path::Path;

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{
    Cmd, CompletionType, ConditionalEventHandler, Config, Context, Editor, Event, EventContext, EventHandler, Helper,
    KeyEvent, Movement, RepeatCount,
};

use crate::{guarded, put_text, text, Result, TqText};

/// Completes the first word of a line to one of these.
struct Commands(Vec<String>);

impl Completer for Commands {
    type Candidate = String;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let start = &line[..position];
        if start.is_empty() {
            return Ok((0, Vec::new()));
        }
        Ok((0, self.0.iter().filter(|command| command.starts_with(start)).cloned().collect()))
    }
}

impl Hinter for Commands {
    type Hint = String;
}
impl Highlighter for Commands {}
impl Validator for Commands {}
impl Helper for Commands {}

/// Ctrl-C first takes away what was typed; on an empty line it is the caller's.
struct CtrlC;

impl ConditionalEventHandler for CtrlC {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext) -> Option<Cmd> {
        (!context.line().is_empty()).then_some(Cmd::Kill(Movement::WholeBuffer))
    }
}

pub struct LineEditor {
    editor: Editor<Commands, FileHistory>,
    history: Option<String>,
}

enum Line {
    Text(String),
    Interrupted,
    End,
}

fn config() -> rustyline::Result<Config> {
    let config = Config::builder().max_history_size(1000)?.history_ignore_dups(true)?;
    Ok(config.completion_type(CompletionType::List).bracketed_paste(true).build())
}

impl LineEditor {
    fn new(commands: Vec<String>, history: Option<String>) -> rustyline::Result<Self> {
        let mut editor = Editor::with_config(config()?)?;
        editor.set_helper(Some(Commands(commands)));
        editor.bind_sequence(KeyEvent::ctrl('C'), EventHandler::Conditional(Box::new(CtrlC)));
        if let Some(path) = &history {
            if Path::new(path).exists() {
                editor.load_history(path)?;
            }
        }
        Ok(Self { editor, history })
    }

    fn read(&mut self, prompt: &str) -> rustyline::Result<Line> {
        match self.editor.readline(&(prompt, format!("\x1b[1;36m{prompt}\x1b[0m").as_str())) {
            Ok(line) => Ok(Line::Text(line)),
            Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(error) => Err(error),
        }
    }

    fn remember(&mut self, entry: &str) -> rustyline::Result<()> {
        if self.editor.add_history_entry(entry)? {
            if let Some(path) = &self.history {
                self.editor.append_history(path)?;
            }
        }
        Ok(())
    }
}

fn said<T>(result: rustyline::Result<T>) -> Result<T> {
    result.map_err(|error| error.to_string())
}

#[no_mangle]
pub unsafe extern "C" fn tq_line_new(
    commands: *const u8,
    commands_size: usize,
    history: *const u8,
    history_size: usize,
    out: *mut *mut LineEditor,
    error: *mut TqText,
) -> c_int {
    guarded(error, || {
        let commands = text(commands, commands_size, "a command")?.lines().map(str::to_string).collect();
        let history = text(history, history_size, "the history's path")?.to_string();
        let editor = said(LineEditor::new(commands, (!history.is_empty()).then_some(history)))?;
        *out = Box::into_raw(Box::new(editor));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tq_line_free(editor: *mut LineEditor) {
    if !editor.is_null() {
        drop(Box::from_raw(editor));
    }
}

#[no_mangle]
pub unsafe extern "C" fn tq_line_read(
    editor: &mut LineEditor,
    prompt: *const u8,
    prompt_size: usize,
    kind: *mut c_int,
    line: *mut TqText,
    error: *mut TqText,
) -> c_int {
    guarded(error, || {
        let (number, content) = match said(editor.read(text(prompt, prompt_size, "the prompt")?))? {
            Line::Text(content) => (0, content),
            Line::Interrupted => (1, String::new()),
            Line::End => (2, String::new()),
        };
        *kind = number;
        put_text(line, content);
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tq_line_remember(
    editor: &mut LineEditor,
    entry: *const u8,
    entry_size: usize,
    error: *mut TqText,
) -> c_int {
    guarded(error, || said(editor.remember(text(entry, entry_size, "the entry")?)))
}
