//! Roots and leaf as they lie in the Secret: made with `rcgen`, checked with what rustls checks them with.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};
use rustls::RootCertStore;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

use super::rotation::{Held, Leaf, Life, Step, Terms};
use super::validity;
use crate::tls;

/// Certificates begin a little earlier than they are made: clocks differ.
const HEAD_START: Duration = Duration::from_secs(5 * 60);
/// Roots in a bundle at most; two are usual.
const ROOTS: usize = 4;
/// The end of a certificate in PEM.
const END: &str = "-----END CERTIFICATE-----";

/// The roots that clients trust, PEM, the newest first. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle(Arc<str>);

impl Bundle {
    /// The certificates in this text; none when there is not one.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let roots: Vec<&str> = certificates(text).collect();
        let good = |root: &&str| CertificateDer::from_pem_slice(root.as_bytes()).is_ok();
        (!roots.is_empty() && roots.iter().all(good)).then(|| Self(join(roots).into()))
    }

    /// Whether this text has the same roots in the same order, however it is laid out: cert-manager writes
    /// `caBundle` too, and two writers that differ in a line break would never rest.
    #[must_use]
    pub fn is_in(&self, text: &str) -> bool {
        text == &*self.0 || Self::read(text).as_ref() == Some(self)
    }

    /// As it lies in a ConfigMap.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What the Secret holds. Not necessarily good: people edit Secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Authority {
    /// PEM, the newest first.
    roots: Vec<String>,
    /// Of the newest root, PEM.
    key: String,
    /// PEM.
    leaf: String,
    /// PEM.
    leaf_key: String,
}

/// Never the keys.
impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Authority").field("roots", &self.roots.len()).finish_non_exhaustive()
    }
}

/// No certificate could be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a certificate: {0}")]
pub struct Failed(#[from] rcgen::Error);

impl Authority {
    /// What these four texts hold.
    #[must_use]
    pub fn read(bundle: &str, key: &str, leaf: &str, leaf_key: &str) -> Self {
        Self {
            roots: certificates(bundle).map(|root| format!("{root}\n")).collect(),
            key: key.to_owned(),
            leaf: leaf.to_owned(),
            leaf_key: leaf_key.to_owned(),
        }
    }

    /// The four texts, by the keys of the Secret.
    #[must_use]
    pub fn written(&self) -> [(&'static str, String); 4] {
        [
            ("ca.crt", self.roots.concat()),
            ("ca.key", self.key.clone()),
            ("tls.crt", self.leaf.clone()),
            ("tls.key", self.leaf_key.clone()),
        ]
    }

    /// What clients trust; none when no root can be read.
    #[must_use]
    pub fn bundle(&self) -> Option<Bundle> {
        Bundle::read(&self.roots.concat())
    }

    /// What servers present.
    pub fn certified_key(&self) -> Result<CertifiedKey, tls::Unusable> {
        tls::certified_key(self.leaf.as_bytes(), self.leaf_key.as_bytes())
    }

    /// Whether it can be served and trusted.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.certified_key().is_ok() && self.bundle().is_some()
    }

    /// What the rotation needs to know. `asked` is for who knows the annotations.
    #[must_use]
    pub fn held(&self, names: &[String], asked: bool) -> Held {
        let roots: Vec<(CertificateDer<'_>, Life)> =
            self.roots.iter().filter_map(|root| read(root)).collect();
        let all_read = roots.len() == self.roots.len();
        let signs = all_read && roots.first().is_some_and(|(root, life)| self.signs(root, *life));
        let leaf = self.certified_key().ok().and_then(|leaf| {
            let leaf = leaf.cert.first()?;
            let life = life(leaf)?;
            let signer = roots.iter().position(|(root, _)| has_signed(root, leaf, life));
            Some(Leaf { life, signer, names_fit: has_names(leaf, names) })
        });
        Held { roots: roots.into_iter().map(|(_, life)| life).collect(), signs, leaf, asked }
    }

    /// Whether our key belongs to this root, and it is one that we made: of another we could not sign in the
    /// name.
    fn signs(&self, root: &CertificateDer<'_>, life: Life) -> bool {
        let (Ok(key), Ok(parsed)) = (KeyPair::from_pem(&self.key), ParsedCertificate::try_from(root)) else {
            return false;
        };
        let name = root_name(life.from);
        parsed.subject_public_key_info().as_ref() == key.subject_public_key_info()
            && root.windows(name.len()).any(|part| part == name.as_bytes())
    }

    /// Takes one step; waiting changes nothing.
    pub fn take(
        &mut self,
        step: Step,
        names: &[String],
        terms: &Terms,
        now: Timestamp,
    ) -> Result<(), Failed> {
        match step {
            Step::AddRoot => {
                let signer = self.held(names, false).leaf.and_then(|leaf| leaf.signer);
                let key = KeyPair::generate()?;
                let root = root(now, terms).self_signed(&key)?;
                // Where roots were added again and again only what the leaf needs has to stay.
                let needed = signer.and_then(|at| self.roots.get(at).cloned());
                self.roots.retain(|root| read(root).is_some());
                self.roots.truncate(ROOTS - 1);
                if let Some(needed) = needed.filter(|root| !self.roots.contains(root)) {
                    self.roots.truncate(ROOTS - 2);
                    self.roots.push(needed);
                }
                self.roots.insert(0, root.pem());
                self.key = key.serialize_pem();
            }
            Step::IssueLeaf => {
                let made = self.roots.first().and_then(|root| read(root)).map_or(now, |(_, life)| life.from);
                let issuer = Issuer::new(root(made, terms), KeyPair::from_pem(&self.key)?);
                let key = KeyPair::generate()?;
                self.leaf = leaf(names, now, terms)?.signed_by(&key, &issuer)?.pem();
                self.leaf_key = key.serialize_pem();
            }
            Step::DropOldRoots => self.roots.truncate(1),
            Step::Wait(_) => {}
        }
        Ok(())
    }

    /// When the leaf and the newest root end, for who watches over them.
    #[must_use]
    pub fn ends(&self) -> (Option<Timestamp>, Option<Timestamp>) {
        let held = self.held(&[], false);
        (held.leaf.map(|leaf| leaf.life.until), held.roots.first().map(|root| root.until))
    }
}

fn root(now: Timestamp, terms: &Terms) -> CertificateParams {
    let mut params = CertificateParams::default();
    // Two roots of one name would be told apart by trying.
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Fairlead");
    params.distinguished_name.push(DnType::CommonName, root_name(now));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = ends(now, terms.root, rcgen::date_time_ymd(1970, 1, 1));
    params
}

/// The name of the root that was made then.
fn root_name(made: Timestamp) -> String {
    format!("fairlead-operator root {}", made.as_second())
}

fn leaf(names: &[String], now: Timestamp, terms: &Terms) -> Result<CertificateParams, Failed> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "fairlead-operator");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = ends(now, terms.leaf, rcgen::date_time_ymd(1970, 1, 1));
    Ok(params)
}

/// The two ends of a life that begins now. The type of time that rcgen wants is not named: it belongs to a
/// crate that nothing else here uses.
fn ends<T: std::ops::Add<Duration, Output = T> + Copy>(now: Timestamp, life: Duration, epoch: T) -> (T, T) {
    let now = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default());
    (epoch + now.saturating_sub(HEAD_START), epoch + now + life)
}

/// A certificate with its life; none when it is not one.
fn read(pem: &str) -> Option<(CertificateDer<'static>, Life)> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let life = life(&der)?;
    ParsedCertificate::try_from(&der).ok()?;
    Some((der, life))
}

/// The life of a certificate of ours: its beginning was put back when it was made.
fn life(der: &CertificateDer<'_>) -> Option<Life> {
    let (from, until) = validity::of(der)?;
    Some(Life { from: from.checked_add(HEAD_START).ok()?, until })
}

/// Whether a client that trusts this root alone believes the leaf, in its best time.
fn has_signed(root: &CertificateDer<'_>, leaf: &CertificateDer<'_>, life: Life) -> bool {
    let mut roots = RootCertStore::empty();
    let (Ok(()), Ok(leaf)) = (roots.add(root.clone()), ParsedCertificate::try_from(leaf)) else {
        return false;
    };
    let then = Duration::from_secs(u64::try_from(life.from.as_second()).unwrap_or_default());
    let algorithms = tls::provider().signature_verification_algorithms.all;
    let then = UnixTime::since_unix_epoch(then);
    verify_server_cert_signed_by_trust_anchor(&leaf, &roots, &[], then, algorithms).is_ok()
}

fn has_names(leaf: &CertificateDer<'_>, names: &[String]) -> bool {
    let Ok(leaf) = ParsedCertificate::try_from(leaf) else { return false };
    let has = |name: &String| {
        ServerName::try_from(name.as_str()).is_ok_and(|name| verify_server_name(&leaf, &name).is_ok())
    };
    names.iter().all(has)
}

/// The certificates in a text, each from its first to its last dash.
fn certificates(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(END).filter_map(|part| {
        let at = part.find("-----BEGIN CERTIFICATE-----")?;
        part.get(at..).filter(|part| part.ends_with(END))
    })
}

fn join(certificates: Vec<&str>) -> String {
    certificates.into_iter().flat_map(|certificate| [certificate, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        vec!["fairlead-operator.fairlead-system.svc".to_owned()]
    }

    fn fresh(now: Timestamp) -> Authority {
        let mut authority = Authority::default();
        for step in [Step::AddRoot, Step::IssueLeaf] {
            authority.take(step, &names(), &terms(), now).unwrap();
        }
        authority
    }

    fn terms() -> Terms {
        Terms::new(Duration::from_secs(300))
    }

    fn again(authority: &Authority) -> Authority {
        let [bundle, key, leaf, leaf_key] = authority.written().map(|(_, text)| text);
        Authority::read(&bundle, &key, &leaf, &leaf_key)
    }

    #[test]
    fn what_is_written_is_read() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let authority = fresh(now);
        let read = again(&authority);
        assert!(read == authority);
        let held = read.held(&names(), false);
        assert!(held.signs);
        assert_eq!(held.roots.len(), 1);
        assert_eq!(held.roots[0].from, now);
        let leaf = held.leaf.unwrap();
        assert_eq!((leaf.life.from, leaf.signer, leaf.names_fit), (now, Some(0), true));
        assert!(!read.held(&["another.name.svc".to_owned()], false).leaf.unwrap().names_fit);
    }

    #[test]
    fn a_new_root_stands_before_the_old_one_and_signs_the_next_leaf() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let mut authority = fresh(now);
        authority.take(Step::AddRoot, &names(), &terms(), now).unwrap();
        let held = again(&authority).held(&names(), false);
        assert_eq!((held.roots.len(), held.signs, held.leaf.unwrap().signer), (2, true, Some(1)));
        authority.take(Step::IssueLeaf, &names(), &terms(), now).unwrap();
        assert_eq!(authority.held(&names(), false).leaf.unwrap().signer, Some(0));
        authority.take(Step::DropOldRoots, &names(), &terms(), now).unwrap();
        let held = again(&authority).held(&names(), false);
        assert_eq!((held.roots.len(), held.leaf.unwrap().signer), (1, Some(0)));
    }

    #[test]
    fn a_bundle_does_not_grow_without_end_and_keeps_what_the_leaf_needs() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let mut authority = fresh(now);
        for _ in 0..7 {
            authority.take(Step::AddRoot, &names(), &terms(), now).unwrap();
            let held = authority.held(&names(), false);
            assert!(held.roots.len() <= ROOTS && held.leaf.unwrap().signer.is_some(), "{held:?}");
        }
    }

    #[test]
    fn what_people_break_is_seen() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let authority = fresh(now);
        let [bundle, key, leaf, leaf_key] = authority.written().map(|(_, text)| text);
        let other = fresh(now);
        let held = |authority: Authority| authority.held(&names(), false);
        assert!(!held(Authority::read(&bundle, &other.key, &leaf, &leaf_key)).signs);
        assert!(!held(Authority::read(&bundle, "", &leaf, &leaf_key)).signs);
        assert_eq!(held(Authority::read(&bundle, &key, &leaf, &other.leaf_key)).leaf, None);
        assert_eq!(
            held(Authority::read(&other.bundle().unwrap().0, &key, &leaf, &leaf_key)).leaf.unwrap().signer,
            None
        );
        assert!(held(Authority::read("nonsense", "", "", "")).roots.is_empty());
        let broken = format!("-----BEGIN CERTIFICATE-----\n!!!\n{END}\n{bundle}");
        assert!(!held(Authority::read(&broken, &key, &leaf, &leaf_key)).signs);
        assert_eq!(Bundle::read(&broken), None);
    }

    #[test]
    fn no_key_is_ever_shown() {
        let authority = fresh(Timestamp::from_second(1_800_000_000).unwrap());
        let shown = format!("{authority:?} {:?}", authority.certified_key().unwrap());
        for key in [&authority.key, &authority.leaf_key] {
            let line = key.lines().nth(1).unwrap();
            assert!(!shown.contains(line) && !shown.contains("PRIVATE"), "{shown}");
        }
        let wrong = tls::certified_key(authority.leaf.as_bytes(), authority.key.as_bytes()).unwrap_err();
        assert!(!wrong.to_string().contains(authority.key.lines().nth(1).unwrap()));
    }
}
