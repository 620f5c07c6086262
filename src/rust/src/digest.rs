//! Checksums of files: SHA-256, and the SHA-1 that git names its blobs by.

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

pub struct Digest(Context);

impl Digest {
    pub fn new(sha1: bool) -> Digest {
        Digest(Context::new(if sha1 { &SHA1_FOR_LEGACY_USE_ONLY } else { &SHA256 }))
    }

    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// Of all bytes so far, in hexadecimal.
    pub fn hex(&self) -> String {
        self.0.clone().finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
