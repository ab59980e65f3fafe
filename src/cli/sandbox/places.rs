//! Which directories have to be readable for a path of the configuration to be read, now and again later.
//!
//! Main function: [`of`]. What is read again may be another file by then: an editor puts a new one in place of the old, and
//! whoever manages a machine swaps a link (Kubernetes mounts secrets as links through `..data`, which it swaps). Rules are
//! made once, so they are about directories. Invariant: the root directory is never one of them, since a rule about it would
//! permit everything. Knows nothing of Landlock.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use super::super::locate::parent_of;

/// Links that are followed one after another; Linux follows as many.
const MOST_LINKS: usize = 40;

/// Those of a file or a directory, which may be a link or have links on its way. Nothing if it is not there.
pub(super) fn of(path: &Path) -> Vec<PathBuf> {
    let Ok(target) = path.canonicalize() else { return Vec::new() };
    let mut places = of_links(path);
    if target.is_dir() {
        // Files of a directory may be links to files elsewhere.
        let entries = fs::read_dir(&target).into_iter().flatten().flatten();
        let elsewhere = entries.filter_map(|entry| entry.path().canonicalize().ok());
        places.extend(elsewhere.filter(|file| !file.starts_with(&target)).map(|file| directory_of(&file)));
        places.push(target);
    } else {
        places.extend([directory_of(path), directory_of(&target)]);
    }
    // A relative path has no root to compare with before it is resolved.
    places.retain(|place| place.canonicalize().is_ok_and(|place| place.parent().is_some()));
    places
}

/// The directory of a file; of one in the root directory that file alone.
fn directory_of(file: &Path) -> PathBuf {
    let parent = parent_of(file);
    let is_root = parent.canonicalize().is_ok_and(|parent| parent.parent().is_none());
    if is_root { file.to_path_buf() } else { parent.to_path_buf() }
}

/// Directories of links that are likely to be swapped: of the path itself, and on its way of those that lead to a neighbour,
/// as `..data` does. Others on its way are the system's, such as `/var/run`, and their directories are nobody's business.
fn of_links(path: &Path) -> Vec<PathBuf> {
    let (mut places, mut path) = (Vec::new(), path.to_path_buf());
    for _ in 0..MOST_LINKS {
        let on_its_way = path.ancestors().skip(1).filter(|ancestor| leads_to_a_neighbour(ancestor));
        places.extend(on_its_way.map(|link| parent_of(link).to_path_buf()));
        let Ok(target) = fs::read_link(&path) else { break };
        let parent = parent_of(&path).to_path_buf();
        path = parent.join(target); // which is the target alone if that is absolute
        places.push(parent);
    }
    places
}

fn leads_to_a_neighbour(path: &Path) -> bool {
    let Ok(target) = fs::read_link(path) else { return false };
    let mut components = target.components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A place with files and links, and how its directories are told without its own name.
    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a directory"))
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn file(&self, name: &str) {
            let path = self.at(name);
            fs::create_dir_all(parent_of(&path)).expect("writable");
            fs::write(path, "").expect("writable");
        }

        fn link(&self, name: &str, target: &str) {
            let path = self.at(name);
            fs::create_dir_all(parent_of(&path)).expect("writable");
            symlink(target, path).expect("writable");
        }

        #[track_caller]
        fn check(&self, name: &str, expected: &[&str]) {
            let root = self.0.path().canonicalize().expect("there");
            let mut found: Vec<String> = of(&self.at(name))
                .iter()
                .map(|place| place.canonicalize().expect("there"))
                .map(|place| place.strip_prefix(&root).expect("below").display().to_string())
                .collect();
            found.sort();
            found.dedup();
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn files_and_directories() {
        let place = Place::new();
        place.file("a/policies/one.cedar");
        place.check("a/policies", &["a/policies"]);
        place.check("a/policies/one.cedar", &["a/policies"]);
        place.check("a/nothing", &[]);
    }

    #[test]
    fn links_that_are_swapped() {
        let place = Place::new();
        // As Kubernetes does it.
        place.file("mount/..1/tls.crt");
        place.link("mount/..data", "..1");
        place.link("mount/tls.crt", "..data/tls.crt");
        place.check("mount/tls.crt", &["mount", "mount/..1"]);
        place.check("mount/..data", &["mount", "mount/..1"]);
        place.check("mount/..data/tls.crt", &["mount", "mount/..1"]);
        // As certbot does it, with one link more in front.
        place.file("archive/x/chain1.pem");
        place.link("live/x/chain.pem", "../../archive/x/chain1.pem");
        place.link("etc/tls.pem", &place.at("live/x/chain.pem").display().to_string());
        place.check("etc/tls.pem", &["archive/x", "etc", "live/x"]);
        // A directory of links to files elsewhere, and a link to that.
        place.file("shared/all.cedar");
        place.link("policies/all.cedar", "../shared/all.cedar");
        place.check("policies", &["policies", "shared"]);
        place.link("configured/policies", &place.at("policies").display().to_string());
        place.check("configured/policies", &["configured", "policies", "shared"]);
    }

    #[test]
    fn links_of_the_system_open_nothing() {
        let place = Place::new();
        place.file("run/secrets/key");
        place.link("var/run", "../run");
        place.file("var/private");
        place.check("var/run/secrets/key", &["run/secrets"]);
        // Nor does a loop.
        place.link("loop", "loop");
        place.check("loop", &[]);
        assert_eq!(of(Path::new("/")), Vec::<PathBuf>::new());
        assert_eq!(directory_of(Path::new("/etc")), Path::new("/etc"));
    }
}
