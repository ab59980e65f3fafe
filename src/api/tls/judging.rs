//! Certificates of clients that are connected already, judged by what was read last.

use std::{sync::PoisonError, time::Duration};

use rustls::CertificateError;
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;

use super::Tls;
use crate::governance::{CertificateJudge, Refusal};

impl CertificateJudge for Tls {
    fn judge(&self, chain: &[Vec<u8>], now: u64) -> Result<(), Refusal> {
        let verifier = self.current.read().unwrap_or_else(PoisonError::into_inner).verifier.clone();
        let (Some(verifier), Some((owner, others))) = (verifier, chain.split_first()) else {
            return Err(Refusal::UnverifiedCertificate);
        };
        let der = |certificate: &Vec<u8>| CertificateDer::from(certificate.clone());
        let others: Vec<_> = others.iter().map(der).collect();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        verifier.verify_client_cert(&der(owner), &others, now).map(drop).map_err(refusal)
    }

    fn next_end(&self, now: u64) -> Option<u64> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.list_ends.iter().copied().filter(|end| *end > now).min()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

fn refusal(error: rustls::Error) -> Refusal {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Revoked) => Refusal::RevokedCertificate,
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            Refusal::Expired
        }
        _ => Refusal::UnverifiedCertificate,
    }
}
