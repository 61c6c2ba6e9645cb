//! The files that a command names with `-f`, as `kubectl apply` takes them: files, folders, standard input.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use fairlead_operator::watch;

/// A file's name, as it is said to people, and its text.
pub type Named = (String, String);

/// Reads each of `paths`: a file, a folder with the YAML and JSON files in it and below, or `-` for standard input.
///
/// # Errors
/// What cannot be read, or a folder without such a file.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Named>> {
    let mut read = Vec::new();
    for path in paths {
        if path == Path::new("-") {
            let mut text = String::new();
            std::io::stdin().lock().read_to_string(&mut text).context("standard input is no text")?;
            read.push(("-".to_owned(), text));
        } else if path.is_dir() {
            let name = path.display();
            let files = watch::files(path).with_context(|| format!("{name} cannot be read"))?;
            if files.is_empty() {
                bail!("{name} has no file that ends in .yaml, .yml or .json");
            }
            for file in files {
                read.push(one(&file)?);
            }
        } else {
            read.push(one(path)?);
        }
    }
    Ok(read)
}

fn one(file: &Path) -> Result<Named> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| format!("{name} cannot be read"))?;
    Ok((name, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_stands_for_its_files_and_an_empty_one_for_a_mistake() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("more")).unwrap();
        for name in ["b.yaml", "a.json", ".hidden.yaml", "README.md", "more/c.yml"] {
            std::fs::write(path(name), name).unwrap();
        }
        let names = |paths: &[PathBuf]| -> Vec<String> {
            read(paths).unwrap().into_iter().map(|(_, text)| text).collect()
        };
        assert_eq!(names(&[folder.path().to_owned()]), ["a.json", "b.yaml", "more/c.yml"]);
        assert_eq!(names(&[path("more"), path("README.md")]), ["more/c.yml", "README.md"]);
        std::fs::remove_file(path("more/c.yml")).unwrap();
        let error = read(&[path("more")]).unwrap_err();
        assert!(error.to_string().ends_with("more has no file that ends in .yaml, .yml or .json"), "{error}");
        let error = read(&[path("none.yaml")]).unwrap_err();
        assert!(error.to_string().ends_with("none.yaml cannot be read"), "{error}");
    }
}
