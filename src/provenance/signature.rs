//! Signatures over lock files: Ed25519 over the file's bytes, in base64, in a file beside it. OpenSSL makes and checks the same
//! (`openssl pkeyutl -sign -rawin`), so nobody needs Tramontane for that.

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::signature::Ed25519KeyPair;
use zeroize::Zeroizing;

use super::{
    ProvenanceError, TrustedKeys,
    keys::{Use, pem_blocks},
    lock::read,
};

/// Where the signature of a lock lies.
pub fn signature_path(lock: &Path) -> PathBuf {
    let mut name = lock.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

/// Signs a lock with a private key (PKCS#8 in PEM), and writes the signature beside it.
pub fn sign(lock: &Path, key: &Path) -> Result<PathBuf, ProvenanceError> {
    let invalid = |reason: &str| ProvenanceError::Invalid { path: key.into(), reason: reason.to_owned() };
    let text = Zeroizing::new(read(key)?);
    let text = std::str::from_utf8(&text).map_err(|_| invalid("expected a PRIVATE KEY in PEM"))?;
    let blocks = pem_blocks(text).map_err(|reason| invalid(&reason))?;
    let [(label, der)] = <[_; 1]>::try_from(blocks).map_err(|_| invalid("expected one PRIVATE KEY in PEM"))?;
    let der = Zeroizing::new(der);
    if label != "PRIVATE KEY" {
        return Err(invalid(
            "expected an unencrypted PRIVATE KEY (PKCS#8), as `openssl genpkey -algorithm ed25519` makes",
        ));
    }
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| invalid("expected an Ed25519 key"))?;
    let signature = pair.sign(&read(lock)?);
    let path = signature_path(lock);
    fs::write(&path, format!("{}\n", STANDARD.encode(signature)))
        .map_err(|source| ProvenanceError::Unwritable { path: path.clone(), source })?;
    Ok(path)
}

/// Which of the keys signed these bytes of a lock; `None` if there is no signature. One that no key made is an error.
pub fn signer_of(lock: &Path, bytes: &[u8], keys: &TrustedKeys) -> Result<Option<String>, ProvenanceError> {
    let path = signature_path(lock);
    if !path.exists() {
        return Ok(None);
    }
    let invalid = |reason: String| ProvenanceError::Invalid { path: path.clone(), reason };
    let text: Vec<u8> = read(&path)?.into_iter().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let signature = STANDARD.decode(text).map_err(|error| invalid(format!("not base64: {error}")))?;
    let signer = keys.of(Use::Lock).find(|key| key.verifies(bytes, &signature));
    let stranger = || invalid(format!("made by no trusted key, or for another content of {}", lock.display()));
    signer.map(|key| Some(key.name.clone())).ok_or_else(stranger)
}
