//! The embedded broker, and the only file that names it: for a laptop, a demo, or a site without a broker of its own. Loopback unless told otherwise.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

use super::mqtt::MOST_PACKET_BYTES;

/// Clients at once.
const MOST_CLIENTS: usize = 64;
/// The log of one topic: segments of this size, so many of them.
const SEGMENT_BYTES: usize = 16 << 20;
const SEGMENTS: usize = 4;
/// It listens within this, or something is wrong.
const UP_WITHIN: Duration = Duration::from_secs(10);

/// Why it does not run.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The port is taken.
    #[error("MQTT port {address}: {source}; is another broker there? change [mqtt] embedded_listen, or set [mqtt] url to use that one")]
    Port {
        /// Where it was to listen.
        address: SocketAddr,
        /// Why it cannot.
        source: std::io::Error,
    },
    /// It did not come up.
    #[error("the embedded broker did not start on {0}")]
    NotUp(SocketAddr),
}

/// Starts the broker on `address` (port 0 takes a free one) and returns where it listens. It runs until the process ends.
///
/// # Errors
/// [`BrokerError`].
pub fn start(address: SocketAddr, v311: bool) -> Result<SocketAddr, BrokerError> {
    // The broker would only log that it cannot bind; asked first, the port answers for itself.
    let probe = TcpListener::bind(address).map_err(|source| BrokerError::Port { address, source })?;
    let address = probe.local_addr().map_err(|source| BrokerError::Port { address, source })?;
    drop(probe);
    let settings = ServerSettings {
        name: "lesionwatch".into(),
        listen: address,
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: 10_000,
            max_payload_size: MOST_PACKET_BYTES as usize,
            max_inflight_count: 100,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        },
    };
    let servers = Some(HashMap::from([("1".to_owned(), settings)]));
    let config = Config {
        router: RouterConfig {
            max_connections: MOST_CLIENTS,
            max_outgoing_packet_count: 200,
            max_segment_size: SEGMENT_BYTES,
            max_segment_count: SEGMENTS,
            ..RouterConfig::default()
        },
        v4: if v311 { servers.clone() } else { None },
        v5: if v311 { None } else { servers },
        ..Config::default()
    };
    let spawned = std::thread::Builder::new().name("broker".into()).spawn(move || {
        if let Err(e) = Broker::new(config).start() {
            log::error!("embedded broker stopped error={e}");
        }
    });
    if let Err(source) = spawned {
        return Err(BrokerError::Port { address, source });
    }
    let deadline = Instant::now() + UP_WITHIN;
    while Instant::now() < deadline {
        if TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok() {
            return Ok(address);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(BrokerError::NotUp(address))
}
