//! The peer: nginx, one worker, plain HTTP on loopback, passing everything to the same upstream over kept connections.
//!
//! It checks nothing, so it is no gateway; it is what moving the bytes costs when it is done well.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;

/// How often a fresh nginx is asked whether it listens already, and the pause between.
const ATTEMPTS: u32 = 500;
const PAUSE: Duration = Duration::from_millis(10);

/// A running nginx; ended with us.
#[derive(Debug)]
pub(crate) struct Peer {
    process: Child,
    pub(crate) address: SocketAddr,
}

impl Peer {
    /// Starts nginx in `folder` in front of the upstream.
    pub(crate) async fn start(folder: &Path, upstream_port: u16) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        // Free a moment ago; nginx itself cannot be asked to choose.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let configuration = folder.join("nginx.conf");
        std::fs::write(&configuration, Self::configuration(folder, address, upstream_port))?;
        let mut process = Command::new(nginx())
            .arg("-p")
            .arg(folder)
            .arg("-c")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| {
                io::Error::new(error.kind(), format!("nginx: {error}; install it, or run: cargo xtask bench"))
            })?;
        for _ in 0..ATTEMPTS {
            if TcpStream::connect(address).await.is_ok() {
                return Ok(Self { process, address });
            }
            if let Some(status) = process.try_wait()? {
                let said = std::fs::read_to_string(folder.join("error.log")).unwrap_or_default();
                return Err(io::Error::other(format!("nginx ended at once: {status}: {said}")));
            }
            tokio::time::sleep(PAUSE).await;
        }
        let _ = process.kill();
        Err(io::Error::new(io::ErrorKind::TimedOut, "nginx never listened"))
    }

    /// Its one process, which is its one worker.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    fn configuration(folder: &Path, address: SocketAddr, upstream_port: u16) -> String {
        let folder = folder.display();
        // Without a master, the one process is the worker: nothing is left behind and all its time is counted.
        format!(
            "daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    tcp_nodelay on;
    upstream tools {{
        server 127.0.0.1:{upstream_port};
        keepalive 512;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {address};
        location / {{
            proxy_pass http://tools;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
        }}
    }}
}}
"
        )
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to do.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Debian keeps it where users do not look.
fn nginx() -> &'static str {
    let usual = "/usr/sbin/nginx";
    if Path::new(usual).is_file() { usual } else { "nginx" }
}
