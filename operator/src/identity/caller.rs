//! What a review says about a client.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
use serde::Deserialize;
use serde_json::json;

use super::AUDIENCE;

/// Before namespace and name of a service account, in the user's name.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// A client whom the API server knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The namespace of its service account, and of its pod.
    pub namespace: Arc<str>,
    /// Its service account.
    pub service_account: Arc<str>,
    /// The pod that the token was made for; `None`: for no pod.
    pub pod: Option<Pod>,
    /// When the token expires.
    pub expires: Timestamp,
}

/// The pod of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: Arc<str>,
    /// Its uid: a later pod may have the same name.
    pub uid: Arc<str>,
}

impl Caller {
    /// What the review says, or why it is not enough.
    pub(super) fn read(status: &TokenReviewStatus, token: &str) -> Result<Self, String> {
        if status.authenticated != Some(true) {
            let reason = status.error.as_deref().filter(|reason| !reason.is_empty());
            return Err(reason.unwrap_or("the API server does not know it").to_owned());
        }
        // An authenticator that knows nothing of audiences says nothing of them.
        if !status.audiences.iter().flatten().any(|audience| audience == AUDIENCE) {
            return Err(format!("it was not made for the audience {AUDIENCE}"));
        }
        let user = status.user.as_ref().ok_or("the API server does not say whose it is")?;
        let name = user.username.as_deref().unwrap_or_default();
        let account = name.strip_prefix(SERVICE_ACCOUNT).and_then(|account| account.split_once(':'));
        let (namespace, service_account) = account.ok_or("it is not a service account's")?;
        let pod = extra(user, POD_NAME).zip(extra(user, POD_UID));
        Ok(Self {
            namespace: namespace.into(),
            service_account: service_account.into(),
            pod: pod.map(|(name, uid)| Pod { name: name.into(), uid: uid.into() }),
            expires: expiry(token).ok_or("it does not say when it expires")?,
        })
    }
}

fn extra<'a>(user: &'a UserInfo, name: &str) -> Option<&'a str> {
    user.extra.as_ref()?.get(name)?.first().map(String::as_str).filter(|value| !value.is_empty())
}

/// The `exp` of a token (RFC 7519, 4.1.4). Read only of one that the API server has found good: its
/// signature was checked there.
fn expiry(token: &str) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Claims {
        exp: i64,
    }
    let mut payload = token.split('.').nth(1)?.replace('-', "+").replace('_', "/");
    while payload.len() % 4 != 0 {
        payload.push('=');
    }
    let ByteString(bytes) = serde_json::from_value(json!(payload)).ok()?;
    let claims: Claims = serde_json::from_slice(&bytes).ok()?;
    Timestamp::from_second(claims.exp).ok()
}
