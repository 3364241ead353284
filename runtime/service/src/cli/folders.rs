//! Folders that commands are given. A file that stands where a folder is needed is told as that, with what
//! to do, before anything else is tried: the system's own words ("File exists") help nobody.

use crate::Error;
use std::path::Path;

/// Refuses a folder's path at which, or above which, a file stands.
pub fn no_file(folder: &Path, advice: &str) -> Result<(), Error> {
    let stands = folder.ancestors().find(|path| path.exists());
    match stands.filter(|path| !path.is_dir()) {
        Some(file) => {
            let file = file.display();
            Err(Error::failed(format!("{file} is a file, and a folder is needed: {advice}")))
        }
        None => Ok(()),
    }
}

/// Likewise of a store's address; one that is not on this machine's disk is left alone.
pub fn no_file_for_store(address: &str) -> Result<(), Error> {
    let folder = match address.split_once("://") {
        None => address,
        Some(("file", path)) => path.strip_prefix("localhost").unwrap_or(path),
        Some(_) => return Ok(()),
    };
    no_file(Path::new(folder), "give that of a store with --store URL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_the_place_of_a_folder_is_named_and_all_else_passes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("notes");
        std::fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("below")] {
            let error = no_file(&path, "name another").unwrap_err().to_string();
            assert_eq!(error, format!("{} is a file, and a folder is needed: name another", file.display()));
        }
        for path in [folder.path().to_path_buf(), folder.path().join("a/b"), "surely/not/there".into()] {
            no_file(&path, "name another").unwrap();
        }
        let file = file.display();
        for address in [format!("{file}"), format!("file://{file}"), format!("file://localhost{file}")] {
            let error = no_file_for_store(&address).unwrap_err().to_string();
            assert!(error.contains("is a file") && error.contains("--store"), "{error}");
        }
        no_file_for_store("s3://bucket/prefix").unwrap();
        no_file_for_store("memory://name").unwrap();
    }
}
