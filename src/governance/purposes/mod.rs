//! Purposes: what callers may process data for, and what becomes of it.
//!
//! [`PurposeFile`] is read at the start and again when it is told to; a file that is wrong changes nothing. A request states a
//! purpose and gets a [`Purpose`], or the reason for none. It knows nothing of HTTP, nor of what is stored.

mod read;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use sha2::{Digest, Sha256};

pub use self::read::PurposeFileError;
use self::read::PurposesText;
use super::reloaded::{Readable, Reloaded};
use crate::types::hexadecimal;

/// What data is processed for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purpose {
    /// As requests state it.
    pub name: String,
    /// For people.
    pub description: String,
    /// Must a request refer to a consent?
    pub consent: Consent,
    /// What is kept.
    pub keeping: Keeping,
    /// What the audit keeps of what was said.
    pub capture: Capture,
    /// Names of tenants, or beginnings of names that end with `*`; all if `None`.
    tenants: Option<Vec<String>>,
}

/// Must a request refer to a consent?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consent {
    /// Yes.
    Required,
    /// It may.
    #[default]
    Optional,
}

/// What is kept of what is sent and answered under a purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// Nothing is stored.
    Nothing,
    /// It is stored for as long, or for as long as the server stores anything.
    For(Option<Duration>),
}

/// What the audit keeps of what was said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Capture {
    /// Nothing but hashes.
    #[default]
    None,
    /// All of it.
    Content,
}

/// What a request says, and whether it must.
#[derive(Clone, Copy, Debug)]
pub struct Stated<'a> {
    /// Whose request it is.
    pub tenant: &'a str,
    /// The name of a purpose.
    pub purpose: Option<&'a str>,
    /// What a consent is recorded under.
    pub consent: Option<&'a str>,
    /// What the request is about.
    pub data: Data,
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// It brings data that is processed.
    Brought,
    /// It brings none.
    None,
}

/// Why a request has no purpose.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PurposeError {
    /// It must have one.
    #[error("says no purpose: expected one of {}", known.join(", "))]
    Missing {
        /// Purposes that the tenant has.
        known: Vec<String>,
    },
    /// Its tenant has no such purpose.
    #[error("says the purpose {name:?}: expected one of {}", known.join(", "))]
    Unknown {
        /// As stated.
        name: String,
        /// Purposes that the tenant has.
        known: Vec<String>,
    },
    /// The purpose needs a consent.
    #[error("refers to no consent, which the purpose {name:?} requires")]
    NoConsent {
        /// The purpose.
        name: String,
    },
}

/// Purposes that can be read again. Cheap to clone; all clones are one. Without a file there are none, and any may be stated.
#[derive(Clone, Default)]
pub struct PurposeFile {
    inner: Option<Arc<Reloaded<Purposes>>>,
}

struct Place {
    path: PathBuf,
    /// How long the server keeps anything.
    retention: Duration,
}

#[derive(Debug)]
struct Purposes {
    is_required: bool,
    purposes: Vec<Arc<Purpose>>,
    /// Of the file.
    digest: String,
}

impl PurposeFile {
    /// Reads a file. The server keeps nothing for longer than `retention`.
    pub fn open(path: &Path, retention: Duration) -> Result<Self, PurposeFileError> {
        let place = Place { path: path.to_owned(), retention };
        Ok(Self { inner: Some(Arc::new(Reloaded::open(place)?)) })
    }

    /// Reads it again. If it is wrong, what was there before goes on to apply. Without a file there is nothing to read.
    pub fn reload(&self) -> Result<(), PurposeFileError> {
        self.reload_if(|_| Ok(()))
    }

    /// SHA-256 of the file as it was last read, in hexadecimal digits.
    pub fn digest(&self) -> Option<String> {
        self.read().map(|purposes| purposes.digest.clone())
    }

    /// Reads it again once somebody who is told the digest agrees.
    pub(super) fn reload_if<E: From<PurposeFileError>>(
        &self,
        agreed: impl FnOnce(&str) -> Result<(), E>,
    ) -> Result<(), E> {
        self.inner.as_ref().map_or(Ok(()), |inner| inner.reload_if(agreed))
    }

    /// The purpose that a request states. Without a file it means nothing here.
    pub fn of(&self, stated: Stated<'_>) -> Result<Option<Arc<Purpose>>, PurposeError> {
        self.read().map_or(Ok(None), |purposes| purposes.find(stated))
    }

    /// Is what is asked and answered under a tenant's purpose kept word for word, where there is an audit log?
    pub fn captures(&self, tenant: &str, purpose: Option<&str>) -> bool {
        let (Some(purposes), Some(name)) = (self.read(), purpose) else { return false };
        let mut of_tenant = purposes.purposes.iter().filter(|purpose| purpose.is_of(tenant));
        of_tenant.any(|purpose| purpose.name == name && purpose.capture == Capture::Content)
    }

    /// Is there a purpose under which that is kept?
    pub fn wants_audit(&self) -> bool {
        let captures = |purpose: &Arc<Purpose>| purpose.capture == Capture::Content;
        self.read().is_some_and(|purposes| purposes.purposes.iter().any(captures))
    }

    fn read(&self) -> Option<Arc<Purposes>> {
        self.inner.as_ref().map(|inner| inner.current())
    }
}

impl Readable for Purposes {
    type Source = Place;
    type Error = PurposeFileError;

    fn read(place: &Place) -> Result<Self, PurposeFileError> {
        let path = || place.path.clone();
        let text = fs::read_to_string(path()).map_err(|source| PurposeFileError::Read { path: path(), source })?;
        let digest = hexadecimal(&Sha256::digest(text.as_bytes()));
        let text: PurposesText = toml::from_str(&text)
            .map_err(|source| PurposeFileError::Form { path: path(), source: Box::new(source) })?;
        let checked =
            text.checked(place.retention).map_err(|reason| PurposeFileError::Wrong { path: path(), reason })?;
        let (is_required, purposes) = checked;
        Ok(Self { is_required, purposes, digest })
    }

    fn digest(&self) -> &str {
        &self.digest
    }
}

impl Purposes {
    fn find(&self, stated: Stated<'_>) -> Result<Option<Arc<Purpose>>, PurposeError> {
        let of_tenant = || self.purposes.iter().filter(|purpose| purpose.is_of(stated.tenant));
        let known = || of_tenant().map(|purpose| purpose.name.clone()).collect();
        let Some(name) = stated.purpose else {
            let is_missing = self.is_required && stated.data == Data::Brought;
            return if is_missing { Err(PurposeError::Missing { known: known() }) } else { Ok(None) };
        };
        let found = of_tenant().find(|purpose| purpose.name == name).cloned();
        let purpose = found.ok_or_else(|| PurposeError::Unknown { name: name.to_owned(), known: known() })?;
        match (purpose.consent, stated.consent, stated.data) {
            (Consent::Required, None, Data::Brought) => Err(PurposeError::NoConsent { name: name.to_owned() }),
            (Consent::Required | Consent::Optional, _, _) => Ok(Some(purpose)),
        }
    }
}

impl Purpose {
    fn is_of(&self, tenant: &str) -> bool {
        let is_meant = |wanted: &String| match wanted.strip_suffix('*') {
            Some(beginning) => tenant.starts_with(beginning),
            None => wanted == tenant,
        };
        self.tenants.as_ref().is_none_or(|tenants| tenants.iter().any(is_meant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        required = true

        [[purpose]]
        name = "support"
        retention = "7d"

        [[purpose]]
        name = "research"
        consent = "required"
        store = false
        tenants = ["lab-*"]
    "#;
    const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), text).expect("it is written");
        file
    }

    fn stated<'a>(tenant: &'a str, purpose: Option<&'a str>) -> Stated<'a> {
        Stated { tenant, purpose, consent: None, data: Data::Brought }
    }

    #[test]
    fn a_request_gets_the_purpose_that_its_tenant_has() {
        let file = file(FILE);
        let purposes = PurposeFile::open(file.path(), MONTH).expect("it is right");
        let support = purposes.of(stated("acme", Some("support"))).expect("it is known").expect("one");
        assert_eq!(support.keeping, Keeping::For(Some(Duration::from_secs(7 * 24 * 60 * 60))));
        assert_eq!((support.capture, support.consent), (Capture::None, Consent::Optional));
        let error = purposes.of(stated("acme", Some("research"))).expect_err("it is the lab's");
        assert_eq!(error.to_string(), r#"says the purpose "research": expected one of support"#);
        let error = purposes.of(stated("lab-1", None)).expect_err("it is required");
        assert_eq!(error.to_string(), "says no purpose: expected one of support, research");
        let error = purposes.of(stated("lab-1", Some("research"))).expect_err("there is no consent");
        assert_eq!(error.to_string(), r#"refers to no consent, which the purpose "research" requires"#);
        let with_consent = Stated { consent: Some("form 12"), ..stated("lab-1", Some("research")) };
        assert_eq!(purposes.of(with_consent).expect("it is there").expect("one").keeping, Keeping::Nothing);
        let looks = Stated { data: Data::None, ..stated("acme", None) };
        assert_eq!(purposes.of(looks), Ok(None));
        assert_eq!(PurposeFile::default().of(stated("acme", Some("anything"))), Ok(None));
    }

    #[test]
    fn a_file_that_is_wrong_changes_nothing() {
        let file = file(FILE);
        let purposes = PurposeFile::open(file.path(), MONTH).expect("it is right");
        let knows = |name| purposes.of(stated("acme", Some(name))).is_ok();
        fs::write(file.path(), "[[purpose]]\nname = 1").expect("it is written");
        assert!(purposes.reload().is_err());
        assert!(knows("support"));
        fs::write(file.path(), "[[purpose]]\nname = \"sales\"").expect("it is written");
        purposes.reload().expect("it is right");
        assert_eq!((knows("support"), knows("sales")), (false, true));
    }

    #[test]
    fn mistakes_are_told_with_the_file() {
        for (from, to, said) in [
            (
                "\"7d\"",
                "\"60d\"",
                "purpose[0].retention = \"60d\": expected at most 30days, for which the server keeps anything",
            ),
            ("\"7d\"", "\"soon\"", "purpose[0].retention = \"soon\": expected a time of at least a minute, such as 7d"),
            ("\"support\"", "\"a b\"", "purpose[0].name = \"a b\": expected 1 to 64 letters, digits"),
            ("\"research\"", "\"support\"", "purpose[1].name = \"support\": expected a name that no other has"),
            ("store = false", "store = false\nretention = \"1d\"", "purpose[1].retention = \"1d\": expected none"),
            (
                "store = false",
                "store = false\ncapture = \"content\"",
                "purpose[1].capture = \"content\": expected none",
            ),
            ("[\"lab-*\"]", "[]", "purpose[1].tenants = []: expected at least one name"),
            ("consent", "consents", "unknown field `consents`"),
            ("\"required\"", "\"always\"", "unknown variant `always`, expected `required` or `optional`"),
        ] {
            let file = file(&FILE.replacen(from, to, 1));
            let error = PurposeFile::open(file.path(), MONTH).err().expect("it is wrong").to_string();
            assert!(error.starts_with(&file.path().display().to_string()) && error.contains(said), "{error}");
        }
        let error = PurposeFile::open(file("required = true").path(), MONTH).err().expect("it is wrong").to_string();
        assert!(error.contains("required = true: expected at least one purpose"), "{error}");
        let missing = PurposeFile::open(Path::new("/nowhere/purposes.toml"), MONTH).err().expect("it is not there");
        assert!(missing.to_string().starts_with("/nowhere/purposes.toml: "), "{missing}");
    }
}
