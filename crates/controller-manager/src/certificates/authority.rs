//! The authority: a certificate and key that sign others.
//!
//! The certificate is put together here, from DER: its subject is taken over from the request as it is, because the
//! library that keeps our keys knows one organisation a subject, and a user may be in many groups.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use coracle_api::certificates::CertificateRequest;
use jiff::Timestamp;
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData, SigningKey,
};
use x509_parser::extensions::ParsedExtension;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Certificates are valid from a little before their making, for clocks that are behind.
const BACKDATE: Duration = Duration::from_secs(300);
/// A shorter certificate is not shortened by that.
const SHORT: Duration = Duration::from_secs(8 * 3600);

/// Why a certificate and key cannot sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The certificate is none.
    #[error("the signing certificate: {0}")]
    Certificate(String),
    /// The key is none.
    #[error("the signing key: {0}")]
    Key(String),
    /// They do not belong together.
    #[error("the signing key is not the signing certificate's")]
    Mismatch,
}

/// A certificate and key that sign others.
pub struct Authority {
    key: KeyPair,
    /// The DER AlgorithmIdentifier of the key's signatures.
    algorithm: &'static [u8],
    subject: Vec<u8>,
    key_id: Option<Vec<u8>>,
    not_after: i64,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Authority {
    /// From PEM: a certificate, and its private key in PKCS #8 form.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key).map_err(|e| AuthorityError::Key(e.to_string()))?;
        let block = parse_x509_pem(certificate.as_bytes()).map_err(|e| AuthorityError::Certificate(e.to_string()))?.1;
        let certificate = X509Certificate::from_der(&block.contents);
        let (_, certificate) = certificate.map_err(|e| AuthorityError::Certificate(e.to_string()))?;
        if *certificate.public_key().subject_public_key.data != *key.der_bytes() {
            return Err(AuthorityError::Mismatch);
        }
        let algorithm = ALGORITHMS.iter().find(|(algorithm, _)| *algorithm == key.algorithm());
        let (_, algorithm) = algorithm.ok_or_else(|| AuthorityError::Key("of an unknown sort".into()))?;
        let key_id = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        Ok(Authority {
            algorithm,
            subject: certificate.subject().as_raw().to_vec(),
            key_id,
            not_after: certificate.validity().not_after.timestamp(),
            key,
        })
    }

    /// A certificate for a request, as PEM.
    ///
    /// # Errors
    /// Usages that do not exist, and an authority that has expired.
    pub fn sign(
        &self,
        request: &CertificateRequest,
        usages: &[String],
        lasts: Duration,
        now: Timestamp,
    ) -> Result<String, String> {
        let end = now + if lasts < SHORT { lasts } else { lasts - BACKDATE };
        let (start, end) = (now - BACKDATE, end.as_second().min(self.not_after));
        if now.as_second() >= self.not_after {
            return Err(format!("the signer has expired: NotAfter={}", self.not_after));
        }
        let end = Timestamp::from_second(end).map_err(|e| e.to_string())?;
        let serial = ((u128::from(coracle_clock::random_u64()) << 64 | u128::from(coracle_clock::random_u64())) >> 1)
            .max(1)
            .to_be_bytes();
        let body = der(
            SEQUENCE,
            &[
                &der(VERSION, &[&[0x02, 0x01, 0x02]]),
                &integer(&serial),
                self.algorithm,
                &self.subject,
                &der(SEQUENCE, &[&time(start), &time(end)]),
                &request.subject_der,
                &request.public_key_der,
                &der(EXTENSIONS, &[&der(SEQUENCE, &[&self.extensions(request, usages)?])]),
            ],
        );
        let signature = self.key.sign(&body).map_err(|e| e.to_string())?;
        Ok(pem(&der(SEQUENCE, &[&body, self.algorithm, &der(BIT_STRING, &[&[0], &signature])])))
    }

    fn extensions(&self, request: &CertificateRequest, usages: &[String]) -> Result<Vec<u8>, String> {
        let known = |usage: &&String| {
            KEY_USAGES.iter().any(|(name, _)| name == usage) || PURPOSES.iter().any(|(name, _)| name == usage)
        };
        let unknown: Vec<&String> = usages.iter().filter(|usage| !known(usage)).collect();
        if !unknown.is_empty() {
            return Err(format!("unrecognized usage values: {unknown:?}"));
        }
        let asked = |name: &str| usages.iter().any(|usage| usage == name);
        let mut out = Vec::new();
        let bits = KEY_USAGES.iter().filter(|(name, _)| asked(name)).fold(0u16, |all, (_, bit)| all | 0x8000 >> bit);
        if bits != 0 {
            let unused = bits.trailing_zeros();
            let bytes = &bits.to_be_bytes()[..if unused >= 8 { 1 } else { 2 }];
            let value = der(BIT_STRING, &[&[(unused % 8) as u8], bytes]);
            out.extend(extension(&[0x55, 0x1d, 0x0f], true, &value));
        }
        let mut purposes: Vec<&[u8]> = PURPOSES.iter().filter(|(name, _)| asked(name)).map(|(_, oid)| *oid).collect();
        purposes.dedup();
        if !purposes.is_empty() {
            let list: Vec<u8> = purposes.iter().flat_map(|oid| der(OID, &[oid])).collect();
            out.extend(extension(&[0x55, 0x1d, 0x25], false, &der(SEQUENCE, &[&list])));
        }
        // Basic constraints: no authority, which is what an empty sequence says.
        out.extend(extension(&[0x55, 0x1d, 0x13], true, &der(SEQUENCE, &[])));
        if let Some(id) = &self.key_id {
            out.extend(extension(&[0x55, 0x1d, 0x23], false, &der(SEQUENCE, &[&der(0x80, &[id])])));
        }
        let names = names(request);
        if !names.is_empty() {
            // An empty subject leaves the names to tell who it is: then they must be understood.
            let critical = request.subject_der == [SEQUENCE, 0];
            out.extend(extension(&[0x55, 0x1d, 0x11], critical, &der(SEQUENCE, &[&names])));
        }
        Ok(out)
    }
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// The explicit tags of a certificate's version and extensions.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

/// The signature algorithms by their keys, as DER.
static ALGORITHMS: [(&rcgen::SignatureAlgorithm, &[u8]); 4] = [
    (&PKCS_ECDSA_P256_SHA256, &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]),
    (&PKCS_ECDSA_P384_SHA384, &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03]),
    (&PKCS_ED25519, &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70]),
    (&PKCS_RSA_SHA256, &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b, 0x05, 0x00]),
];

/// The usages that are bits of the KeyUsage extension (RFC 5280, 4.2.1.3).
const KEY_USAGES: [(&str, u8); 10] = [
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];

/// The usages that are purposes of the ExtendedKeyUsage extension, in Go's order, with their object identifiers.
const PURPOSES: [(&str, &[u8]); 13] = [
    ("any", &[0x55, 0x1d, 0x25, 0x00]),
    ("server auth", &[0x2b, 6, 1, 5, 5, 7, 3, 1]),
    ("client auth", &[0x2b, 6, 1, 5, 5, 7, 3, 2]),
    ("code signing", &[0x2b, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", &[0x2b, 6, 1, 5, 5, 7, 3, 4]),
    ("s/mime", &[0x2b, 6, 1, 5, 5, 7, 3, 4]),
    ("ipsec end system", &[0x2b, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[0x2b, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[0x2b, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[0x2b, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[0x2b, 6, 1, 5, 5, 7, 3, 9]),
    ("microsoft sgc", &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 0x0a, 3, 3]),
    ("netscape sgc", &[0x60, 0x86, 0x48, 1, 0x86, 0xf8, 0x42, 4, 1]),
];

/// A DER value: tag, length, contents.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let contents = parts.concat();
    let mut out = vec![tag];
    match u8::try_from(contents.len()) {
        Ok(short @ 0..=0x7f) => out.push(short),
        _ => {
            let length = contents.len().to_be_bytes();
            let length = &length[length.iter().position(|byte| *byte != 0).unwrap_or_default()..];
            out.push(0x80 | length.len() as u8);
            out.extend(length);
        }
    }
    out.extend(contents);
    out
}

/// A positive number: without needless zeros, but with the one that keeps it positive.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let bytes = &bytes[bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1)..];
    let sign: &[u8] = if bytes[0] & 0x80 == 0 { &[] } else { &[0] };
    der(INTEGER, &[sign, bytes])
}

/// Two digits of the year until 2049, then four (RFC 5280, 4.1.2.5).
fn time(at: Timestamp) -> Vec<u8> {
    let text = at.strftime("%Y%m%d%H%M%SZ").to_string();
    if text.as_str() < "2050" {
        der(UTC_TIME, &[&text.as_bytes()[2..]])
    } else {
        der(GENERALIZED_TIME, &[text.as_bytes()])
    }
}

fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[0x01, 0x01, 0xff] } else { &[] };
    der(SEQUENCE, &[&der(OID, &[oid]), critical, &der(OCTET_STRING, &[value])])
}

/// The request's alternative names, in Go's order.
fn names(request: &CertificateRequest) -> Vec<u8> {
    let texts = [(0x82, &request.dns_names), (0x81, &request.emails)];
    let mut out: Vec<u8> =
        texts.iter().flat_map(|(tag, list)| list.iter().flat_map(|name| der(*tag, &[name.as_bytes()]))).collect();
    out.extend(request.ips.iter().flat_map(|ip| match ip {
        std::net::IpAddr::V4(ip) => der(0x87, &[&ip.octets()]),
        std::net::IpAddr::V6(ip) => der(0x87, &[&ip.octets()]),
    }));
    out.extend(request.uris.iter().flat_map(|uri| der(0x86, &[uri.as_bytes()])));
    out
}

fn pem(der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy);
    let body: String = lines.map(|line| format!("{line}\n")).collect();
    format!("-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n")
}
