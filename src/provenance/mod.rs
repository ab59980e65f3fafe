//! Where a model comes from and who vouches for it: the lock file, which names every file of a model with its digest, and the
//! signatures over it.
//!
//! Main types: [`Lock`], the content of `tramontane.lock`; [`Manifest`], what files of one model must be; [`TrustedKeys`],
//! whose signatures count. A manifest comes from a lock or from a signature of OpenSSF's model signing ([`signed_manifest`]);
//! checking files against it is the same.
//!
//! Invariants: a file that is there and not in the manifest is as wrong as one that differs, since any of them might be read;
//! nothing here opens a connection, so what would need one (keyless signatures) is refused. Knows nothing of tensors,
//! tokenizers or HTTP.

mod error;
mod files;
mod keys;
mod lock;
mod manifest;
mod model_signing;
mod signature;
#[cfg(test)]
mod tests;

pub use self::{
    error::ProvenanceError,
    files::{FileDigest, hash_file},
    keys::TrustedKeys,
    lock::{Lock, LockedFile, LockedModel, Origin},
    manifest::Manifest,
    model_signing::{SIGNATURE_NAME, signed_manifest},
    signature::{sign, signature_path, signer_of},
};
