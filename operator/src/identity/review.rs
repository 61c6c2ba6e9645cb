//! Asking the API server about a token.

use std::fmt::Debug;

use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};

use super::AUDIENCE;

/// The API server could not be asked. Says nothing of the token.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

/// Who is asked about tokens: the API server, or in tests somebody else.
pub trait Reviewer: Debug + Send + Sync {
    /// What there is to say about the token.
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<TokenReviewStatus, Unreachable>>;
}

/// The API server.
pub struct ApiServer(Client);

impl ApiServer {
    /// Asks through this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self(client)
    }
}

impl Debug for ApiServer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ApiServer")
    }
}

impl Reviewer for ApiServer {
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<TokenReviewStatus, Unreachable>> {
        Box::pin(async move {
            let spec =
                TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![AUDIENCE.to_owned()]) };
            let review = TokenReview { spec, ..TokenReview::default() };
            let reviews = Api::<TokenReview>::all(self.0.clone());
            let answer = reviews.create(&PostParams::default(), &review).await;
            let answer = answer.map_err(|error| Unreachable(error.to_string()))?;
            answer.status.ok_or_else(|| Unreachable("the review has no status".into()))
        })
    }
}
