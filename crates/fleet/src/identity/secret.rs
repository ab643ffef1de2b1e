//! Text that lets its holder in.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// A token or a signing key. It cannot be printed, nor compared by accident.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text; white space around it is not part of it.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether somebody who shows this text knows the secret. How long that takes says nothing
    /// about either, their lengths included.
    pub(super) fn is(&self, shown: &str) -> bool {
        Sha256::digest(&self.0).ct_eq(&Sha256::digest(shown)).into()
    }

    /// The code that only who knows the secret can make for these bytes.
    pub(super) fn sign(&self, message: &[u8]) -> [u8; 32] {
        self.mac(message).finalize().into_bytes().into()
    }

    /// Whether the code is the one for these bytes, in a time that does not say how nearly.
    pub(super) fn signed(&self, message: &[u8], code: &[u8]) -> bool {
        self.mac(message).verify_slice(code).is_ok()
    }

    fn mac(&self, message: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_bytes())
            .expect("HMAC takes keys of every length");
        mac.update(message);
        mac
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_by_its_whole_text_and_never_shown() {
        let secret = Secret::new(" hunter2\n");
        assert!(secret.is("hunter2"));
        for wrong in ["", "hunter", "hunter22", "Hunter2", " hunter2"] {
            assert!(!secret.is(wrong), "{wrong:?}");
        }
        assert!(!format!("{secret:?}").contains("hunter2"));
    }

    /// The second case of RFC 4231.
    #[test]
    fn the_code_is_hmac_sha_256() {
        let code = Secret::new("Jefe").sign(b"what do ya want for nothing?");
        let hex: String = code.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        assert!(Secret::new("Jefe").signed(b"what do ya want for nothing?", &code));
        assert!(!Secret::new("Jefe").signed(b"what do ya want for nothing!", &code));
        assert!(!Secret::new("Jefe").signed(b"what do ya want for nothing?", &code[..31]));
    }
}
