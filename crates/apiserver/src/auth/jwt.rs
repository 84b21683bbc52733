//! JSON Web Tokens (RFC 7519) signed with ECDSA over P-256 (ES256), and nothing else of that wide field.
//!
//! A token names neither its algorithm nor its key to us: there is one key, and what it did not sign
//! with ES256 is no token. That closes the door on `alg: none` and on confusing a public key with a secret.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What comes before the 65 bytes of a P-256 point in a DER SubjectPublicKeyInfo (RFC 5480).
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Why a key cannot be used or a token is none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// The key is no ECDSA P-256 key in PKCS #8 form.
    #[error("the service account key is not an ECDSA P-256 private key in PKCS #8 form")]
    Key,
    /// It does not look like a token at all.
    #[error("not a JSON Web Token")]
    Malformed,
    /// It was not signed with our key.
    #[error("the token was not signed with this cluster's service account key")]
    Signature,
}

/// The key that signs tokens and tells its own from others'.
pub struct TokenKey {
    pair: EcdsaKeyPair,
    key_id: String,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl TokenKey {
    /// From the PEM of a PKCS #8 private key, as in `sa.key`.
    pub fn from_pem(pem: &str) -> Result<Self, JwtError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| JwtError::Key)?;
        Self::from_pkcs8(der.secret_pkcs8_der())
    }

    /// A new key that is kept nowhere, for clusters that live in memory.
    pub fn generate() -> Result<Self, JwtError> {
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map_err(|_| JwtError::Key)?;
        Self::from_pkcs8(der.as_ref())
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, JwtError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &SystemRandom::new())
            .map_err(|_| JwtError::Key)?;
        // Upstream's key id: the hash of the public key's DER form.
        let mut hash = Sha256::new();
        hash.update(P256_SPKI_PREFIX);
        hash.update(pair.public_key().as_ref());
        let key_id = BASE64_URL_SAFE_NO_PAD.encode(hash.finalize());
        Ok(TokenKey { pair, key_id })
    }

    /// Signs claims.
    pub fn sign(&self, claims: &Value) -> Result<String, JwtError> {
        let header = json!({ "alg": "ES256", "kid": self.key_id });
        let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(&header), encode(claims));
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).map_err(|_| JwtError::Key)?;
        Ok(format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that this key signed. Says nothing of expiry or audience.
    pub fn verify(&self, token: &str) -> Result<Value, JwtError> {
        let (message, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(JwtError::Malformed)?;
        let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtError::Malformed);
        let parse = |part: &str| serde_json::from_slice::<Value>(&decode(part)?).map_err(|_| JwtError::Malformed);
        if parse(header)?["alg"] != "ES256" {
            return Err(JwtError::Signature);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(message.as_bytes(), &decode(signature)?)
            .map_err(|_| JwtError::Signature)?;
        parse(claims)
    }

    /// The public key as a JSON Web Key Set, as `/openid/v1/jwks` serves it.
    pub fn jwks(&self) -> Value {
        // A point is 0x04, x, y.
        let point = self.pair.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        json!({ "keys": [{
            "use": "sig",
            "kty": "EC",
            "kid": self.key_id,
            "crv": "P-256",
            "alg": "ES256",
            "x": BASE64_URL_SAFE_NO_PAD.encode(x),
            "y": BASE64_URL_SAFE_NO_PAD.encode(y),
        }] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signed_token_verifies_and_a_changed_one_does_not() {
        let key = TokenKey::generate().unwrap();
        let claims = json!({ "sub": "system:serviceaccount:default:web" });
        let token = key.sign(&claims).unwrap();
        assert_eq!(key.verify(&token).unwrap(), claims);
        assert_eq!(TokenKey::generate().unwrap().verify(&token), Err(JwtError::Signature));

        let forged = BASE64_URL_SAFE_NO_PAD.encode(json!({ "sub": "system:serviceaccount:kube-system:x" }).to_string());
        let parts: Vec<_> = token.split('.').collect();
        assert_eq!(key.verify(&format!("{}.{forged}.{}", parts[0], parts[2])), Err(JwtError::Signature));
        assert_eq!(key.verify("not a token"), Err(JwtError::Malformed));
    }

    #[test]
    fn a_token_that_names_no_algorithm_is_refused() {
        let key = TokenKey::generate().unwrap();
        let header = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let claims = BASE64_URL_SAFE_NO_PAD.encode(r#"{"sub":"x"}"#);
        assert_eq!(key.verify(&format!("{header}.{claims}.")), Err(JwtError::Signature));
    }

    #[test]
    fn the_key_set_holds_the_point_of_the_key_the_header_names() {
        let key = TokenKey::generate().unwrap();
        let jwk = &key.jwks()["keys"][0];
        assert_eq!(jwk["kid"], key.key_id);
        for coordinate in ["x", "y"] {
            assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(jwk[coordinate].as_str().unwrap()).unwrap().len(), 32);
        }
    }
}
