//! The guardrails of a server: those of the operator's file as it was last read, and which of them apply to what.
//!
//! [`GuardrailFile`] is read at the start and again when it is told to; a file that is wrong changes nothing. Choosing takes
//! time in proportion to the file, so the choice for a kind of request is kept.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use sha2::{Digest, Sha256};

use super::{
    guardrails::{ActiveGuardrails, Guardrails, GuardrailsConfig, GuardrailsError},
    reloaded::{Readable, Reloaded},
};
use crate::types::hexadecimal;

/// Kinds of requests whose guardrails are kept. They are few: tenants times routes.
const MOST_KEPT: usize = 4096;

/// Why a file of guardrails cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GuardrailFileError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is no TOML, or has a key that is not known.
    #[error("{path}: {source}")]
    Form {
        /// The file.
        path: PathBuf,
        /// What and where.
        source: Box<toml::de::Error>,
    },
    /// A value of it is wrong.
    #[error("{path}: {source}")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What and where.
        source: GuardrailsError,
    },
}

/// Guardrails that can be read again. Cheap to clone; all clones are one. Without a file there are none.
#[derive(Clone, Default)]
pub struct GuardrailFile {
    inner: Option<Arc<Reloaded<Read>>>,
}

struct Place {
    path: PathBuf,
    /// All that the file may name.
    routes: Vec<&'static str>,
}

struct Read {
    guardrails: Guardrails,
    names: Vec<String>,
    digest: String,
    selected: Mutex<HashMap<Kind, ActiveGuardrails>>,
}

/// Tenant, model, and route if it is known.
type Kind = (String, String, Option<String>);

impl GuardrailFile {
    /// Reads a file, for a server that has these routes.
    pub fn open(path: &Path, routes: Vec<&'static str>) -> Result<Self, GuardrailFileError> {
        let place = Place { path: path.to_owned(), routes };
        Ok(Self { inner: Some(Arc::new(Reloaded::open(place)?)) })
    }

    /// Reads it again. If it is wrong, what was there before goes on to apply. Without a file there is nothing to read.
    pub fn reload(&self) -> Result<(), GuardrailFileError> {
        self.reload_if(|_| Ok(()))
    }

    /// The file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.inner.as_ref().map(|inner| inner.source().path.as_path())
    }

    /// SHA-256 of the file as it was last read, in hexadecimal digits.
    pub fn digest(&self) -> Option<String> {
        self.read().map(|read| read.digest.clone())
    }

    /// Names of the guardrails, in the order of the file.
    pub fn names(&self) -> Vec<String> {
        self.read().map_or_else(Vec::new, |read| read.names.clone())
    }

    /// The same once somebody who is told the digest agrees.
    pub(super) fn reload_if<E: From<GuardrailFileError>>(
        &self,
        agreed: impl FnOnce(&str) -> Result<(), E>,
    ) -> Result<(), E> {
        self.inner.as_ref().map_or(Ok(()), |inner| inner.reload_if(agreed))
    }

    /// Those that apply to requests of a tenant for a model, by its first name, on a route; `None` if they check nothing. Where
    /// the route is not known, those of all routes apply.
    pub fn select(&self, tenant: &str, model: &str, route: Option<&str>) -> Option<ActiveGuardrails> {
        let active = self.read()?.select((tenant.to_owned(), model.to_owned(), route.map(str::to_owned)));
        (active.checks_input() || active.checks_output()).then_some(active)
    }

    fn read(&self) -> Option<Arc<Read>> {
        self.inner.as_ref().map(|inner| inner.current())
    }
}

impl Readable for Read {
    type Source = Place;
    type Error = GuardrailFileError;

    fn read(place: &Place) -> Result<Self, GuardrailFileError> {
        let path = || place.path.clone();
        let text = fs::read_to_string(path()).map_err(|source| GuardrailFileError::Read { path: path(), source })?;
        let config: GuardrailsConfig = toml::from_str(&text)
            .map_err(|source| GuardrailFileError::Form { path: path(), source: Box::new(source) })?;
        let names = config.guardrail.iter().map(|guardrail| guardrail.name.clone()).collect();
        let digest = hexadecimal(&Sha256::digest(text.as_bytes()));
        let wrong = |source| GuardrailFileError::Wrong { path: path(), source };
        let guardrails = Guardrails::new(config, None).map_err(wrong)?;
        guardrails.check_routes(&place.routes).map_err(wrong)?;
        Ok(Self { guardrails, names, digest, selected: Mutex::default() })
    }

    fn digest(&self) -> &str {
        &self.digest
    }
}

impl Read {
    fn select(&self, kind: Kind) -> ActiveGuardrails {
        let mut selected = self.selected.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(active) = selected.get(&kind) {
            return active.clone();
        }
        let (tenant, model, route) = &kind;
        let active = self.guardrails.select(tenant, model, route.as_deref());
        if selected.len() >= MOST_KEPT {
            selected.clear();
        }
        selected.insert(kind, active.clone());
        active
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKS: &str = r#"
        [[guardrail]]
        name = "words"
        stage = "both"
        words = ["crane"]
        action = "block"
        tenants = ["acme"]
    "#;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), text).expect("it is written");
        file
    }

    #[test]
    fn a_file_that_is_wrong_changes_nothing() {
        let file = file(BLOCKS);
        let guardrails = GuardrailFile::open(file.path(), vec!["/r"]).expect("it is right");
        let names = |tenant| guardrails.select(tenant, "m", Some("/r")).map(|active| active.names().len());
        assert_eq!((names("acme"), names("other")), (Some(1), None));
        fs::write(file.path(), "[[guardrail]]\nname = 1").expect("it is written");
        assert!(guardrails.reload().is_err());
        assert_eq!((names("acme"), names("other")), (Some(1), None));
        fs::write(file.path(), "").expect("it is written");
        guardrails.reload().expect("no guardrail is no mistake");
        assert_eq!((names("acme"), names("other")), (None, None));
    }

    #[test]
    fn where_the_route_is_not_known_all_apply() {
        let file = file(&BLOCKS.replace("tenants = [\"acme\"]", "routes = [\"/r\"]"));
        let guardrails = GuardrailFile::open(file.path(), vec!["/r", "/s"]).expect("it is right");
        let applies = |route| guardrails.select("t", "m", route).is_some();
        assert_eq!([Some("/r"), Some("/s"), None].map(applies), [true, false, true]);
    }

    #[test]
    fn mistakes_are_told_with_the_file() {
        for (in_place_of_words, said) in [
            ("detect = [\"iban\", \"names\"]", "guardrail[0].detect[1]"),
            ("classifier = { label = \"toxicity\" }", "this server has no classifier to ask for \"toxicity\""),
            ("word = []", "unknown field `word`"),
            ("routes = [\"/r*\", \"/v1/chat\"]\nwords = [\"a\"]", "guardrail[0].routes[1] = \"/v1/chat\""),
        ] {
            let file = file(&BLOCKS.replace("words = [\"crane\"]", in_place_of_words));
            let error = GuardrailFile::open(file.path(), vec!["/r"]).err().expect("it is wrong").to_string();
            assert!(error.starts_with(&file.path().display().to_string()) && error.contains(said), "{error}");
        }
        let missing =
            GuardrailFile::open(Path::new("/nowhere/guardrails.toml"), Vec::new()).err().expect("it is not there");
        assert!(missing.to_string().starts_with("/nowhere/guardrails.toml: "), "{missing}");
    }
}
