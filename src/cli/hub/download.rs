//! Fetches one file into the cache, in the layout of `huggingface_hub` and of hf-hub: `blobs/<digest>`, and a
//! link to it in `snapshots/<commit>`. Continues a partial download, and lets a file appear under its name only
//! once its digest has been checked.
//!
//! This is not hf-hub's own download because that one (0.4.3) sends the access token on to whatever storage
//! host the hub redirects to.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use hf_hub::api::Progress;

use super::{ATTEMPTS, Hub, RemoteFile};

/// A response that brings nothing for this long is given up.
const STALL: Duration = Duration::from_secs(60);

/// The client for files: the token stays with the hub's own host.
pub(super) fn agent() -> ureq::Agent {
    ureq::AgentBuilder::new()
        .try_proxy_from_env(true)
        .redirect_auth_headers(ureq::RedirectAuthHeaders::SameHost)
        .timeout_connect(STALL / 2)
        .timeout_read(STALL)
        .user_agent(concat!("tramontane/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// One attempt's end.
enum Attempt {
    /// The part is as long as the file.
    Complete,
    /// It broke off; another attempt may go on.
    Broken(anyhow::Error),
}

/// Fetches `file` from `url` to `blobs/<digest>` under `root` and returns that path.
pub(super) fn fetch(hub: &Hub, url: &str, root: &Path, file: &RemoteFile, bar: &mut impl Progress) -> Result<PathBuf> {
    let blob = root.join("blobs").join(file.digest.hex());
    fs::create_dir_all(root.join("blobs"))?;
    let _lock = lock(&blob.with_extension("lock"))?;
    let part = blob.with_extension("part");
    let mut attempts = 1;
    while let Attempt::Broken(error) = attempt(hub, url, &part, file, bar)? {
        if attempts == ATTEMPTS {
            return Err(error.context(format!("gave up after {ATTEMPTS} attempts")));
        }
        thread::sleep(Duration::from_millis(250 << attempts));
        attempts += 1;
    }
    if !file.digest.matches(&part)? {
        fs::remove_file(&part)?;
        bail!("{}: its {} is not what the hub states; the file was deleted", file.name, file.digest.kind());
    }
    fs::rename(&part, &blob)?;
    Ok(blob)
}

/// Goes on after what `part` already holds. An error is one that another attempt would meet again.
fn attempt(hub: &Hub, url: &str, part: &Path, file: &RemoteFile, bar: &mut impl Progress) -> Result<Attempt> {
    let mut out = OpenOptions::new().create(true).append(true).open(part)?;
    let mut have = out.metadata()?.len();
    if have > file.size {
        out.set_len(0)?;
        have = 0;
    }
    if have == file.size {
        return Ok(Attempt::Complete);
    }
    let response = match hub.authorized(hub.agent.get(url)).set("Range", &format!("bytes={have}-")).call() {
        Ok(response) => response,
        Err(error) if is_passing(&error) => return Ok(Attempt::Broken(hub.refusal(&file.name, error))),
        Err(error) => return Err(hub.refusal(&file.name, error)),
    };
    match response.status() {
        206 => {
            let range = response.header("Content-Range").unwrap_or_default();
            let begins = range.strip_prefix("bytes ").and_then(|range| range.split_once('-')?.0.parse().ok());
            ensure!(begins == Some(have), "{}: the hub sent the range {range:?}, not from {have}", file.name);
        }
        // The server does not know ranges: this is the whole file.
        _ => {
            out.set_len(0)?;
            have = 0;
        }
    }
    bar.init(file.size as usize, &file.name);
    bar.update(have as usize);
    let copied = copy(response.into_reader().take(file.size - have), &mut out, bar);
    match copied {
        Ok(()) if out.metadata()?.len() == file.size => {
            bar.finish();
            Ok(Attempt::Complete)
        }
        Ok(()) => Ok(Attempt::Broken(anyhow::anyhow!("{}: the connection ended early", file.name))),
        Err(error) => Ok(Attempt::Broken(anyhow::Error::new(error).context(file.name.clone()))),
    }
}

fn copy(mut from: impl Read, to: &mut File, bar: &mut impl Progress) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 18];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            n => {
                to.write_all(&buffer[..n])?;
                bar.update(n);
            }
        }
    }
}

/// No connection, an overloaded or failing server: worth another attempt.
fn is_passing(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Transport(_) => true,
        ureq::Error::Status(status, _) => *status == 429 || *status >= 500,
    }
}

/// Held while the file is open.
fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("another process is fetching this file: {} is locked", path.display()),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Makes `snapshot/<name>` lead to the blob, by a relative link so that the cache can be moved.
pub(super) fn link(snapshot: &Path, name: &str, blob: &Path) -> Result<()> {
    fs::create_dir_all(snapshot)?;
    let digest = blob.file_name().context("a blob has a name")?;
    let target = Path::new("../../blobs").join(digest);
    let path = snapshot.join(name);
    make_link(&target, blob, &path).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(unix)]
fn make_link(target: &Path, _blob: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(not(unix))]
fn make_link(_target: &Path, blob: &Path, path: &Path) -> io::Result<()> {
    fs::hard_link(blob, path)
}
