//! Certificates that tests need, signed by an authority of their own.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use tramontane::config::{ClientAuth, ClientCertificates, TlsConfig};

/// An authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub pem: String,
}

/// A certificate with its key, in PEM.
pub struct Issued {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// For a server at `localhost` and 127.0.0.1.
    pub fn server(&self) -> Issued {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        self.issue(CertificateParams::new(names).expect("names"), ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// For a client with a URI.
    pub fn client(&self, uri: &str) -> Issued {
        self.issue(of(uri), ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// The same, good until a time.
    pub fn client_until(&self, uri: &str, end: SystemTime) -> Issued {
        let since_1970 = end.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        let mut params = of(uri);
        params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(since_1970.as_secs());
        self.issue(params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// The same with a serial number that it may be revoked by.
    pub fn client_with_serial(&self, uri: &str, serial: u64) -> Issued {
        let mut params = of(uri);
        params.serial_number = Some(SerialNumber::from(serial));
        self.issue(params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A list of those that are revoked, in PEM.
    pub fn revokes(&self, serials: &[u64]) -> String {
        self.revokes_until(serials, date_time_ymd(2120, 1, 1).into())
    }

    /// The same, good until a time.
    pub fn revokes_until(&self, serials: &[u64], end: SystemTime) -> String {
        let revoked = |&serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: end.into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("a list").pem().expect("PEM")
    }

    /// For a server, shown by a client.
    pub fn client_for_another_purpose(&self, uri: &str) -> Issued {
        self.issue(of(uri), ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn issue(&self, mut params: CertificateParams, purpose: ExtendedKeyUsagePurpose) -> Issued {
        params.extended_key_usages.push(purpose);
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Issued { cert, key: key.serialize_pem() }
    }
}

fn of(uri: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names.push(SanType::URI(uri.try_into().expect("ASCII")));
    params
}

impl Issued {
    /// As files of a directory.
    pub fn write(&self, directory: &Path) -> (PathBuf, PathBuf) {
        let (cert, key) = (directory.join("cert.pem"), directory.join("key.pem"));
        fs::write(&cert, &self.cert).expect("it can be written");
        fs::write(&key, &self.key).expect("it can be written");
        fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("it is ours");
        (cert, key)
    }

    /// As a server's files, with an authority of clients.
    pub fn files(&self, directory: &Path, clients: Option<(&Authority, ClientAuth)>) -> TlsConfig {
        let (cert, key) = self.write(directory);
        let clients = clients.map(|(authority, auth)| {
            let ca = directory.join("clients.pem");
            fs::write(&ca, &authority.pem).expect("it can be written");
            ClientCertificates { ca, crl: None, auth }
        });
        TlsConfig { cert, key, clients }
    }
}
