//! Real databases for pods: MariaDB, whose server speaks first, and Redis, each with its client, as Debian has them.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::cluster::build_image;
use crate::program;

/// Builds the image of databases and test server and loads it on every node; its name.
pub fn load_databases() -> &'static str {
    const NAME: &str = "localhost/fairlead-test-databases:1";
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        let redis = installed("redis-check-rdb", "redis-tools");
        let content = [
            (program::path("fairlead-test-server"), "/server"),
            (installed("mariadbd", "mariadb-server-core"), "/usr/sbin/mariadbd"),
            (installed("mariadb", "mariadb-client-core"), "/usr/bin/mariadb"),
            (PathBuf::from("/usr/share/mysql/english"), "/usr/share/mysql/english"),
            (PathBuf::from("/usr/share/mysql/charsets"), "/usr/share/mysql/charsets"),
            // One program is server and tools, by the name that it is called. The package with the tools starts
            // no service on this machine.
            (redis, "/usr/bin/redis-server"),
            (installed("redis-cli", "redis-tools"), "/usr/bin/redis-cli"),
        ];
        build_image(NAME, "fairlead-test-databases.tar", &content, &[]);
    });
    NAME
}

/// A program of a Debian package.
fn installed(program: &str, package: &str) -> PathBuf {
    let mut files = ["/usr/bin", "/usr/sbin"].iter().map(|folder| Path::new(folder).join(program));
    files
        .find(|file| file.exists())
        .unwrap_or_else(|| panic!("no {program}: apt-get install {package}, or make setup"))
}
