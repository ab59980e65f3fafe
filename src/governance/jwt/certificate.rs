//! What a TLS client certificate says about its owner.
//!
//! [`CertificateIdentity`] is read from the certificate of a connection whose chain, dates and purpose rustls has verified;
//! nothing is verified here. What could be read in two ways (a control character in a name, several common names, a critical
//! extension's twin) makes the certificate unreadable or the name absent, never a guess.

use sha2::{Digest, Sha256};
use x509_cert::{
    Certificate,
    der::{
        Decode, Tag, Tagged,
        asn1::{Any, Ia5StringRef, PrintableStringRef, Utf8StringRef},
        oid::ObjectIdentifier,
    },
    ext::pkix::{SubjectAltName, name::GeneralName},
    name::Name,
};

use super::error::SourceError;
use crate::types::hexadecimal;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3"); // RFC 5280 appendix A.1
/// Largest certificate in bytes that is looked at.
const MOST_BYTES: usize = 64 * 1024;

/// The owner of a client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateIdentity {
    /// The distinguished name as in RFC 4514, for people and the audit; it may be empty.
    pub subject: String,
    /// The subject's common name, if it has exactly one.
    pub common_name: Option<String>,
    /// The alternative names that are DNS names, in lower case.
    pub dns_names: Vec<String>,
    /// Those that are URIs, SPIFFE ids among them.
    pub uris: Vec<String>,
    /// Those that are e-mail addresses.
    pub emails: Vec<String>,
    /// The serial number in lower-case hexadecimal.
    pub serial: String,
    /// SHA-256 of the whole certificate in lower-case hexadecimal.
    pub fingerprint_sha256: String,
    /// Unix seconds at which it ends.
    pub not_after: u64,
}

impl CertificateIdentity {
    /// Reads a certificate (RFC 5280 §4.1) in DER.
    pub fn from_der(der: &[u8]) -> Result<Self, SourceError> {
        if der.len() > MOST_BYTES {
            return Err(unreadable("it has more than 64 KiB"));
        }
        let certificate = Certificate::from_der(der).map_err(|_| unreadable("it is not a certificate in DER"))?;
        let content = certificate.tbs_certificate();
        let mut identity = Self {
            subject: content.subject().to_string(),
            common_name: common_name(content.subject())?,
            dns_names: Vec::new(),
            uris: Vec::new(),
            emails: Vec::new(),
            serial: hexadecimal(content.serial_number().as_bytes()),
            fingerprint_sha256: hexadecimal(&Sha256::digest(der)),
            not_after: content.validity().not_after.to_unix_duration().as_secs(),
        };
        let names = content.get_extension::<SubjectAltName>();
        if let Some((_, names)) = names.map_err(|_| unreadable("its alternative names are not in DER, or twice"))? {
            names.0.iter().try_for_each(|name| identity.add(name))?;
        }
        Ok(identity)
    }

    /// Names of kinds that nothing here goes by are left out.
    fn add(&mut self, name: &GeneralName) -> Result<(), SourceError> {
        match name {
            GeneralName::DnsName(name) => self.dns_names.push(plain(name.as_str())?.to_ascii_lowercase()),
            GeneralName::UniformResourceIdentifier(uri) => self.uris.push(plain(uri.as_str())?),
            GeneralName::Rfc822Name(email) => self.emails.push(plain(email.as_str())?),
            GeneralName::OtherName(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EdiPartyName(_)
            | GeneralName::IpAddress(_)
            | GeneralName::RegisteredId(_) => {}
        }
        Ok(())
    }
}

/// The one common name. Of several, each reader takes another.
fn common_name(subject: &Name) -> Result<Option<String>, SourceError> {
    let mut names = subject.iter().filter(|attribute| attribute.oid == COMMON_NAME);
    match (names.next(), names.next()) {
        (Some(name), None) => directory_string(&name.value),
        _ => Ok(None),
    }
}

/// Text of the kinds that RFC 5280 §4.1.2.4 has certificates use. Text of the old kinds is not compared with anything.
fn directory_string(value: &Any) -> Result<Option<String>, SourceError> {
    let text = match value.tag() {
        Tag::Utf8String => value.decode_as::<Utf8StringRef<'_>>().ok().map(|text| text.as_str().to_owned()),
        Tag::PrintableString => value.decode_as::<PrintableStringRef<'_>>().ok().map(|text| text.as_str().to_owned()),
        Tag::Ia5String => value.decode_as::<Ia5StringRef<'_>>().ok().map(|text| text.as_str().to_owned()),
        _ => return Ok(None),
    };
    plain(&text.ok_or_else(|| unreadable("its common name is not the text that it says it is"))?).map(Some)
}

/// Text without control characters: a NUL in a name has ended it for one reader and not for another.
fn plain(text: &str) -> Result<String, SourceError> {
    match text.chars().any(char::is_control) {
        true => Err(unreadable("a control character is in one of its names")),
        false => Ok(text.to_owned()),
    }
}

fn unreadable(reason: &'static str) -> SourceError {
    SourceError::Certificate { reason }
}
