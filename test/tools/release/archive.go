// SPDX-License-Identifier: MPL-2.0

package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// documents go into every archive, beside the binary.
var documents = []string{"CHANGELOG.md", "LICENSE", "README.md"}

// entry is a file of an archive.
type entry struct {
	name string // with slashes
	file string // where it is
	mode fs.FileMode
}

// archive packs an artifact: a zip for Windows, else a tar. All is in one folder, of the name that it has beside the archive, so that
// the checksum of the binary is found by SHA256SUMS before and after it is unpacked.
func (r *release) archive(a artifact) error {
	entries := []entry{{name: path.Join(a.folder, a.file), file: filepath.Join(r.out, a.folder, a.file), mode: 0o755}}
	for _, document := range documents {
		entries = append(entries, entry{name: path.Join(a.folder, document), file: filepath.Join(r.root, document), mode: 0o644})
	}
	if a.os == "windows" {
		return writeFile(filepath.Join(r.out, a.folder+".zip"), func(w io.Writer) error { return writeZip(w, entries, r.time) })
	}
	return writeFile(filepath.Join(r.out, a.folder+".tar.gz"), func(w io.Writer) error {
		packed, err := gzip.NewWriterLevel(w, gzip.BestCompression) // its header has neither name nor time
		if err != nil {
			return err
		}
		if err := writeTar(packed, entries, r.time); err != nil {
			return err
		}
		return packed.Close()
	})
}

func byName(a, b entry) int { return strings.Compare(a.name, b.name) }

// writeTar writes the files in order of their names, as root's and of the given time.
func writeTar(w io.Writer, entries []entry, at time.Time) error {
	out := tar.NewWriter(w)
	for _, e := range slices.SortedFunc(slices.Values(entries), byName) {
		content, err := os.ReadFile(e.file)
		if err != nil {
			return err
		}
		if err := addToTar(out, e.name, e.mode, content, at); err != nil {
			return err
		}
	}
	return out.Close()
}

func addToTar(out *tar.Writer, name string, mode fs.FileMode, content []byte, at time.Time) error {
	err := out.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: int64(mode), ModTime: at.UTC(), Format: tar.FormatPAX,
	})
	if err != nil {
		return err
	}
	_, err = out.Write(content)
	return err
}

func writeZip(w io.Writer, entries []entry, at time.Time) error {
	out := zip.NewWriter(w)
	for _, e := range slices.SortedFunc(slices.Values(entries), byName) {
		header := &zip.FileHeader{Name: e.name, Method: zip.Deflate, Modified: at.UTC()}
		header.SetMode(e.mode)
		to, err := out.CreateHeader(header)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(e.file)
		if err != nil {
			return err
		}
		if _, err := to.Write(content); err != nil {
			return err
		}
	}
	return out.Close()
}

// sums writes SHA256SUMS, of every file of the release: archives, SBOMs and the image, and the binaries, whose checksums Vault's
// catalog wants. The blobs of the image's layout are left out, since their names are their checksums.
func (r *release) sums() error {
	var lines []string
	err := filepath.WalkDir(r.out, func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasSuffix(d.Name(), layoutSuffix):
			return filepath.SkipDir
		case d.IsDir():
			return nil
		}
		name, err := filepath.Rel(r.out, file)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		lines = append(lines, fmt.Sprintf("%x  %s\n", sha256.Sum256(content), filepath.ToSlash(name)))
		return nil
	})
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(r.out, "SHA256SUMS"), func(w io.Writer) error {
		_, err := io.WriteString(w, strings.Join(lines, ""))
		return err
	})
}

func writeFile(name string, write func(io.Writer) error) error {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if err := write(file); err != nil {
		file.Close()
		return fmt.Errorf("%s: %w", name, err)
	}
	return file.Close()
}
