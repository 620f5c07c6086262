//! One HTTP request at a time, in a thread of its own, so that the caller can wait in short steps and leave at any time.
//! No redirect is followed and no status is an error here: the caller decides who may see its token.

use std::io::Read;
use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ureq::tls::{parse_pem, PemItem, RootCerts, TlsConfig};
use ureq::{Agent, Error, Timeout};

use crate::{caught, Result};

const CHUNK: usize = 256 << 10;
/// Chunks that may wait for the caller; with CHUNK this bounds the memory of a transfer.
const WAITING: usize = 8;
/// Longest time to connect: without a network the cache is used, which should not take longer.
const CONNECT: Duration = Duration::from_secs(10);

pub enum Event {
    /// Status, and the headers as lines "name: value" with names in lower case.
    Head(u16, String),
    Data(Vec<u8>),
    /// Why no more comes.
    Failed(String),
}

pub struct Request {
    events: Receiver<Event>,
}

pub enum Next {
    Pending,
    Event(Event),
    End,
}

impl Request {
    /// `headers`: lines "Name: value". `patience`: the longest time without a byte.
    pub fn start(method: &str, url: &str, headers: &str, patience: Duration) -> Result<Request> {
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        for line in headers.lines() {
            let (name, value) = line.split_once(": ").ok_or("a header has no value")?;
            request = request.header(name, value);
        }
        // The message of an invalid header must not repeat it: it may be the token.
        let request = request.body(()).map_err(|_| "not a valid address or header".to_string())?;
        let (sender, events) = sync_channel(WAITING);
        let body = move || {
            if let Err(message) = caught(|| run(request, patience, &sender)) {
                // If nobody listens any more, nobody wants to know.
                let _ = sender.send(Event::Failed(message));
            }
        };
        std::thread::Builder::new().name("http".into()).spawn(body).map_err(|e| e.to_string())?;
        Ok(Request { events })
    }

    pub fn next(&self, wait: Duration) -> Next {
        match self.events.recv_timeout(wait) {
            Ok(event) => Next::Event(event),
            Err(RecvTimeoutError::Timeout) => Next::Pending,
            Err(RecvTimeoutError::Disconnected) => Next::End,
        }
    }
}

fn run(request: ureq::http::Request<()>, patience: Duration, sender: &SyncSender<Event>) -> Result<()> {
    let agent = agent()?;
    let request = agent
        .configure_request(request)
        .timeout_connect(Some(patience.min(CONNECT)))
        .timeout_recv_response(Some(patience))
        .timeout_per_read(Some(patience))
        .build();
    let response = agent.run(request).map_err(|e| explain(&e, patience))?;
    let mut head = String::new();
    for (name, value) in response.headers() {
        // What is no text is of no use to the caller.
        if let Ok(value) = value.to_str() {
            head.push_str(&format!("{name}: {value}\n"));
        }
    }
    if sender.send(Event::Head(response.status().as_u16(), head)).is_err() {
        return Ok(());
    }
    let mut body = response.into_body().into_reader();
    loop {
        let mut chunk = vec![0; CHUNK];
        let count = match body.read(&mut chunk) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(explain(&Error::from(error), patience)),
        };
        if count == 0 {
            return Ok(());
        }
        chunk.truncate(count);
        if sender.send(Event::Data(chunk)).is_err() {
            return Ok(());
        }
    }
}

/// One for all requests: it keeps connections open between them.
fn agent() -> Result<Agent> {
    static AGENT: OnceLock<Result<Agent>> = OnceLock::new();
    AGENT
        .get_or_init(|| {
            let tls = TlsConfig::builder().root_certs(root_certs()?).build();
            let config = Agent::config_builder()
                .tls_config(tls)
                .max_redirects(0)
                .max_redirects_will_error(false)
                .http_status_as_error(false)
                .user_agent(concat!("turboquant/", env!("CARGO_PKG_VERSION")));
            Ok(config.build().into())
        })
        .clone()
}

/// Those of the file that SSL_CERT_FILE names (companies have their own), else Mozilla's.
fn root_certs() -> Result<RootCerts> {
    let Some(path) = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()) else {
        return Ok(RootCerts::WebPki);
    };
    let name = path.to_string_lossy().into_owned();
    let pem = std::fs::read(&path).map_err(|e| format!("SSL_CERT_FILE={name}: {}", plain(&e)))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        if let Ok(PemItem::Certificate(certificate)) = item {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        return Err(format!("SSL_CERT_FILE={name}: no certificates in it"));
    }
    Ok(RootCerts::Specific(Arc::new(certificates)))
}

fn explain(error: &Error, patience: Duration) -> String {
    match error {
        Error::Io(e) => match e.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(inner) => explain(inner, patience),
            None => plain(e),
        },
        Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
            format!("no connection within {} s", patience.min(CONNECT).as_secs())
        }
        Error::Timeout(_) => format!("no answer for {} s", patience.as_secs()),
        Error::HostNotFound => "host not found".into(),
        other => other.to_string(),
    }
}

/// "Connection refused (os error 111)" without the number.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_string()
}
