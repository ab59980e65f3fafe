//! Signatures of OpenSSF's model signing (`model.sig`, <https://github.com/ossf/model-signing-spec>): a Sigstore bundle whose
//! DSSE envelope holds an in-toto statement about all files of a model.
//!
//! What is signed by a key, or by the key of a certificate that the operator names, is checked. Signatures without a key of
//! one's own (keyless) are checked against services and roots on the network, so they are refused.

use std::{collections::BTreeSet, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    Manifest, ProvenanceError, TrustedKeys,
    keys::Use,
    lock::{is_plain_path, is_sha256, read},
};
use crate::types::hexadecimal;

/// The name that such a signature has by default.
pub const SIGNATURE_NAME: &str = "model.sig";

const BUNDLE_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
const PREDICATE_TYPE: &str = "https://model_signing/signature/v1.0";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    media_type: String,
    verification_material: Value,
    dsse_envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    predicate_type: String,
    predicate: Predicate,
}

#[derive(Deserialize)]
struct Subject {
    digest: SubjectDigest,
}

#[derive(Deserialize)]
struct SubjectDigest {
    sha256: String,
}

#[derive(Deserialize)]
struct Predicate {
    serialization: Serialization,
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Serialization {
    method: String,
    hash_type: String,
    #[serde(default)]
    ignore_paths: Vec<String>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
    algorithm: String,
    digest: String,
}

/// Checks a signature and returns what it says of a model's files, and the name of the key that made it.
pub fn signed_manifest(path: &Path, keys: &TrustedKeys) -> Result<(Manifest, String), ProvenanceError> {
    let invalid = |reason: String| ProvenanceError::Invalid { path: path.into(), reason };
    let bundle: Bundle = serde_json::from_slice(&read(path)?).map_err(|error| invalid(error.to_string()))?;
    let (payload, signer) = bundle.verified(keys).map_err(invalid)?;
    let statement: Statement = serde_json::from_slice(&payload).map_err(|error| invalid(error.to_string()))?;
    let origin = path.display().to_string();
    Ok((statement.manifest(origin).map_err(invalid)?, signer))
}

impl Bundle {
    /// What was signed, and the name of the key.
    fn verified(self, keys: &TrustedKeys) -> Result<(Vec<u8>, String), String> {
        expect("mediaType", &self.media_type, BUNDLE_TYPE)?;
        expect("payloadType", &self.dsse_envelope.payload_type, PAYLOAD_TYPE)?;
        let material = &self.verification_material;
        let has_entries = material["tlogEntries"].as_array().is_some_and(|entries| !entries.is_empty());
        if material.get("certificate").is_some() || has_entries {
            return Err(
                "a keyless signature: checking it takes the network, so sign with a key or a certificate".into()
            );
        }
        let decode = |what: &str, text: &str| STANDARD.decode(text).map_err(|error| format!("{what}: {error}"));
        let [signature] = self.dsse_envelope.signatures.as_slice() else {
            return Err(format!("{} signatures: expected one", self.dsse_envelope.signatures.len()));
        };
        let (payload, signature) = (decode("payload", &self.dsse_envelope.payload)?, decode("sig", &signature.sig)?);
        let signed = pre_authentication_encoding(&payload);
        let signer = keys.of(Use::Model).find(|key| key.verifies(&signed, &signature));
        let signer = signer.ok_or("made by no trusted key, or changed since")?;
        Ok((payload, signer.name.clone()))
    }
}

impl Statement {
    fn manifest(self, origin: String) -> Result<Manifest, String> {
        expect("_type", &self.kind, STATEMENT_TYPE)?;
        expect("predicateType", &self.predicate_type, PREDICATE_TYPE)?;
        expect("serialization.method", &self.predicate.serialization.method, "files")?;
        expect("serialization.hash_type", &self.predicate.serialization.hash_type, "sha256")?;
        let (mut all, mut names) = (Sha256::new(), BTreeSet::new());
        for Resource { name, algorithm, digest } in &self.predicate.resources {
            if !names.insert(name) {
                return Err(format!("{name:?}: expected each file once"));
            }
            expect(&format!("{name}: algorithm"), algorithm, "sha256")?;
            if !is_plain_path(name) || !is_sha256(digest) {
                return Err(format!("{name:?}: expected a path below the model's directory and 64 hexadecimal digits"));
            }
            all.update(bytes_of(digest));
        }
        // The statement's subject is the digest of all digests.
        let [subject] = self.subject.as_slice() else {
            return Err(format!("{} subjects: expected one", self.subject.len()));
        };
        expect("subject", &subject.digest.sha256, &hexadecimal(&all.finalize()))?;
        let files = self.predicate.resources.into_iter().map(|resource| (resource.name, resource.digest, None));
        Ok(Manifest::new(origin, files, self.predicate.serialization.ignore_paths))
    }
}

fn expect(what: &str, found: &str, expected: &str) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what} = {found:?}: expected {expected:?}")) }
}

/// What DSSE signs (<https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md>).
fn pre_authentication_encoding(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// Of hexadecimal digits that have been checked.
fn bytes_of(digits: &str) -> Vec<u8> {
    let value = |digit: u8| if digit.is_ascii_digit() { digit - b'0' } else { digit - b'a' + 10 };
    digits.as_bytes().chunks_exact(2).map(|pair| value(pair[0]) << 4 | value(pair[1])).collect()
}
