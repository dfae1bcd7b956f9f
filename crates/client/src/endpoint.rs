//! One node, as a client reaches it.

use std::{sync::Arc, time::Duration};

use prost::Message;
use tonic::{Status, transport::Channel};

use crate::{
    ClientOptions, ConnectError,
    calls::Called,
    exchange::Exchange,
    pb::{self, answer::Answer, call::Call, cluster_client::ClusterClient, kv_client::KvClient},
};

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// A node's address and the one connection to it, which comes about when it is first needed and again after it broke.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: String,
    kv: KvClient<Channel>,
    exchange: Arc<Exchange>,
    cluster: ClusterClient<Channel>,
    message_bytes_max: usize,
}

impl Endpoint {
    /// Needs a tokio runtime round it.
    pub(crate) fn new(address: &str, options: &ClientOptions) -> Result<Endpoint, ConnectError> {
        let address = normal(address)?;
        let channel = Channel::from_shared(format!("http://{address}"))
            .map_err(|error| ConnectError::address(&address, error.to_string()))?
            .connect_timeout(options.connect)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true)
            .connect_lazy();
        let max = options.message_bytes_max;
        let kv = KvClient::new(channel.clone()).max_decoding_message_size(max).max_encoding_message_size(max);
        let exchange = Arc::new(Exchange::new(channel.clone(), max));
        let cluster = ClusterClient::new(channel).max_decoding_message_size(max);
        Ok(Endpoint { address, kv, exchange, cluster, message_bytes_max: max })
    }

    /// A handle on the connection, for one call.
    pub(crate) fn kv(&self) -> KvClient<Channel> {
        self.kv.clone()
    }

    /// Commits, on the stream or by a request of its own.
    pub(crate) async fn commit(&self, request: &pb::CommitRequest) -> Called<pb::CommitResponse> {
        match self.exchanged(request, Call::Commit).await? {
            Some(Answer::Commit(response)) => self.within_limit(response),
            Some(_) => Err(unexpected()),
            None => Ok(self.kv().commit(request.clone()).await?.into_inner()),
        }
    }

    /// Reads values, on the stream or by a request of its own.
    pub(crate) async fn get_many(&self, request: &pb::GetManyRequest) -> Called<pb::GetManyResponse> {
        match self.exchanged(request, Call::GetMany).await? {
            Some(Answer::GetMany(response)) => self.within_limit(response),
            Some(_) => Err(unexpected()),
            None => Ok(self.kv().get_many(request.clone()).await?.into_inner()),
        }
    }

    /// Asks whether keys are there, on the stream or by a request of its own.
    pub(crate) async fn contains_many(&self, request: &pb::ContainsManyRequest) -> Called<pb::ContainsManyResponse> {
        match self.exchanged(request, Call::ContainsMany).await? {
            Some(Answer::ContainsMany(response)) => self.within_limit(response),
            Some(_) => Err(unexpected()),
            None => Ok(self.kv().contains_many(request.clone()).await?.into_inner()),
        }
    }

    /// Calls on the stream; `None` when it is to be asked by a request of its own.
    async fn exchanged<R: Message + Clone>(&self, request: &R, call: fn(R) -> Call) -> Called<Option<Answer>> {
        self.exchange.call(request.encoded_len(), || call(request.clone())).await
    }

    /// An answer of the stream, unless a request of its own would not have taken it.
    fn within_limit<R: Message>(&self, response: R) -> Called<R> {
        let (len, limit) = (response.encoded_len(), self.message_bytes_max);
        if len > limit {
            let why = format!("the answer is too large: found {len} bytes, the limit is: {limit} bytes");
            return Err(Status::out_of_range(why));
        }
        Ok(response)
    }

    pub(crate) fn cluster(&self) -> ClusterClient<Channel> {
        self.cluster.clone()
    }
}

/// The outcome of such a call is unknown.
fn unexpected() -> Status {
    Status::unknown("the answer belongs to another kind of call")
}

/// `host:port`, whether or not it was written as a URL.
pub(crate) fn normal(address: &str) -> Result<String, ConnectError> {
    let wrong = |reason: &str| Err(ConnectError::address(address, reason.to_owned()));
    let trimmed = address.trim();
    let rest = match trimmed.split_once("://") {
        None => trimmed,
        Some(("http" | "grpc", rest)) => rest.trim_end_matches('/'),
        Some((scheme, _)) => return wrong(&format!("the scheme \"{scheme}\" is not known here")),
    };
    let Some((host, port)) = rest.rsplit_once(':') else { return wrong("the port is missing") };
    if host.is_empty() || host.contains(['/', '@', ' ']) {
        return wrong(&format!("\"{host}\" is not a host"));
    }
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return wrong("an IPv6 address is written in brackets");
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(format!("{host}:{port}")),
        _ => wrong(&format!("\"{port}\" is not a port from 1 to 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_understood_with_and_without_a_scheme() {
        for text in ["h.example:9590", "http://h.example:9590", "grpc://h.example:9590/", " h.example:9590 "] {
            assert_eq!(normal(text).unwrap(), "h.example:9590");
        }
        assert_eq!(normal("[::1]:9590").unwrap(), "[::1]:9590");
    }

    #[test]
    fn a_bad_address_is_told_which_part_is_bad() {
        for (text, part) in [
            ("localhost", "port is missing"),
            (":9590", "not a host"),
            ("h:0", "\"0\" is not a port"),
            ("h:99999", "\"99999\""),
            ("https://h:9590", "\"https\""),
            ("::1:9590", "brackets"),
            ("a/b:1", "\"a/b\""),
        ] {
            let error = normal(text).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains(text), "{error}");
        }
    }
}
