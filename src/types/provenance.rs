//! What is known of where a model comes from, and who vouches for it.

/// Of the model that is served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// SHA-256 of the tokenizer's file, in hexadecimal; empty where there is none.
    pub tokenizer_digest: String,
    /// What its lock says, if its files were checked against one.
    pub locked: Option<LockedOrigin>,
    /// The key whose signature was checked, over the lock or over the model's files.
    pub signer: Option<String>,
}

/// What a lock says of a model besides its files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockedOrigin {
    /// Where it is from: a hub's id or a directory.
    pub source: String,
    /// The commit, if it is from the hub.
    pub revision: String,
    /// As the model's card states it.
    pub licence: String,
}

impl Provenance {
    /// In one word.
    pub fn state(&self) -> &'static str {
        match (&self.locked, &self.signer) {
            (_, Some(_)) => "signed",
            (Some(_), None) => "locked",
            (None, None) => "unlocked",
        }
    }
}
