//! Keys in PEM: `PUBLIC KEY` sections (RFC 7468 §13) and those of certificates, whose dates and issuers are not looked at:
//! whoever wrote the file trusts the key.

use rustls_pki_types::pem::{PemObject, SectionKind};
use x509_cert::{
    Certificate,
    der::{self, Decode, Encode, Reader, SliceReader, asn1::UintRef, oid::ObjectIdentifier},
    spki::SubjectPublicKeyInfoRef,
};

use super::{Material, ReadKey};

const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1"); // RFC 8017 A.1
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1"); // RFC 5480 §2.1.1
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7"); // RFC 5480 §2.1.1.1
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34"); // RFC 5480 §2.1.1.1
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112"); // RFC 8410 §3

/// The keys of a file, or why it has none.
pub(super) fn read(text: &[u8]) -> Result<Vec<ReadKey>, &'static str> {
    let sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(text);
    let keys = sections.map(|section| {
        let (kind, der) = section.map_err(|_| "it is neither a JWK set nor PEM")?;
        Ok((None, read_section(kind, &der).map(|material| (None, material))))
    });
    let keys: Vec<ReadKey> = keys.collect::<Result<_, &'static str>>()?;
    if keys.is_empty() { Err("it is neither a JWK set nor PEM with a public key") } else { Ok(keys) }
}

fn read_section(kind: SectionKind, der: &[u8]) -> Result<Material, &'static str> {
    match kind {
        SectionKind::PublicKey => public_key(der),
        SectionKind::Certificate => certificate(der),
        SectionKind::RsaPrivateKey | SectionKind::PrivateKey | SectionKind::EcPrivateKey => {
            Err("it is a private key, which nobody else may have")
        }
        _ => Err("it is neither a public key nor a certificate"),
    }
}

fn certificate(der: &[u8]) -> Result<Material, &'static str> {
    let unreadable = |_| "it is not a certificate in DER";
    let certificate = Certificate::from_der(der).map_err(unreadable)?;
    public_key(&certificate.tbs_certificate().subject_public_key_info().to_der().map_err(unreadable)?)
}

/// `SubjectPublicKeyInfo` of RFC 5280 §4.1.2.7.
fn public_key(der: &[u8]) -> Result<Material, &'static str> {
    let info = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| "it is not a public key in DER")?;
    let bits = info.subject_public_key.as_bytes().ok_or("its key does not have whole bytes")?;
    let curve = info.algorithm.parameters.and_then(|parameters| parameters.decode_as::<ObjectIdentifier>().ok());
    match (info.algorithm.oid, curve) {
        (RSA_ENCRYPTION, _) => {
            let (n, e) = rsa_numbers(bits).map_err(|_| "it is not an RSA key in DER")?;
            Material::rsa(n.as_bytes(), e.as_bytes())
        }
        (EC_PUBLIC_KEY, Some(P256)) => Ok(Material::P256(point(bits, 32)?)),
        (EC_PUBLIC_KEY, Some(P384)) => Ok(Material::P384(point(bits, 48)?)),
        (ED25519, _) if bits.len() == 32 => Ok(Material::Ed25519(bits.to_vec())),
        _ => Err("its algorithm is none that is known"),
    }
}

/// Modulus and exponent: `RSAPublicKey` of RFC 8017 A.1.1.
fn rsa_numbers(der: &[u8]) -> der::Result<(UintRef<'_>, UintRef<'_>)> {
    let mut reader = SliceReader::new(der)?;
    let numbers =
        reader.sequence(|numbers| Ok::<_, der::Error>((UintRef::decode(numbers)?, UintRef::decode(numbers)?)))?;
    reader.finish().map(|()| numbers)
}

fn point(bits: &[u8], coordinate_bytes: usize) -> Result<Vec<u8>, &'static str> {
    let is_uncompressed = bits.len() == 1 + 2 * coordinate_bytes && bits[0] == 4;
    if is_uncompressed { Ok(bits.to_vec()) } else { Err("its point is not uncompressed") }
}
