//! An RSA signer for tests: a genuine one, so that it is refused for what it is and not for a broken signature.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};

use super::{Algorithm, JwsSigner, PublicJwk, SignError};

pub(crate) struct SoftwareRsa(KeyPair);

impl SoftwareRsa {
    pub(crate) fn generate() -> Self {
        Self(KeyPair::generate(KeySize::Rsa2048).unwrap())
    }
}

impl JwsSigner for SoftwareRsa {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Rs256
    }

    fn public_jwk(&self) -> PublicJwk {
        // PKCS #1 of 2048 bits: SEQUENCE, INTEGER of 257 bytes with a leading zero, INTEGER 65537.
        let der = self.0.public_key().as_ref();
        assert_eq!(der.len(), 270);
        PublicJwk::Rsa { n: der[9..265].to_vec(), e: der[267..].to_vec(), alg: Algorithm::Rs256 }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let mut signature = vec![0; self.0.public_modulus_len()];
        self.0.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
        Ok(signature)
    }
}
