// SPDX-License-Identifier: MPL-2.0

package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func sha256Of(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

// fakeRelease is a release whose binaries are short texts.
func fakeRelease(t *testing.T, platforms ...[2]string) (*release, []artifact) {
	t.Helper()
	r := &release{
		root: t.TempDir(), out: t.TempDir(), version: "v1.2.3", revision: "0123456789abcdef0123456789abcdef01234567",
		time: time.Date(2026, 11, 26, 4, 5, 6, 0, time.FixedZone("", 3600)),
	}
	for _, document := range documents {
		require.NoError(t, os.WriteFile(filepath.Join(r.root, document), []byte("the text of "+document), 0o600))
	}
	var all []artifact
	for _, p := range platforms {
		a := artifact{command: plugin, os: p[0], arch: p[1], folder: plugin + "_v1.2.3_" + p[0] + "_" + p[1], file: plugin}
		require.NoError(t, os.Mkdir(filepath.Join(r.out, a.folder), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(r.out, a.folder, a.file), []byte("the plugin for "+a.platform()), 0o700))
		all = append(all, a)
	}
	return r, all
}

var wantMode = map[string]os.FileMode{plugin: 0o755, "CHANGELOG.md": 0o644, "LICENSE": 0o644, "README.md": 0o644}

func TestTarHasNothingOfTheMachine(t *testing.T) {
	r, all := fakeRelease(t, [2]string{"linux", "arm64"})
	require.NoError(t, r.archive(all[0]))
	file, err := os.Open(filepath.Join(r.out, all[0].folder+".tar.gz"))
	require.NoError(t, err)
	defer file.Close()
	unpacked, err := gzip.NewReader(file)
	require.NoError(t, err)
	require.True(t, unpacked.ModTime.IsZero())
	require.Empty(t, unpacked.Name)
	var names []string
	for in := tar.NewReader(unpacked); ; {
		header, err := in.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		folder, name := filepath.Split(header.Name)
		require.Equal(t, all[0].folder+"/", folder)
		require.Equal(t, wantMode[name], header.FileInfo().Mode())
		require.Zero(t, header.Uid+header.Gid)
		require.Empty(t, header.Uname+header.Gname)
		require.True(t, header.ModTime.Equal(r.time))
		names = append(names, name)
	}
	require.Equal(t, []string{"CHANGELOG.md", "LICENSE", "README.md", plugin}, names)
}

func TestZipHasNothingOfTheMachine(t *testing.T) {
	r, all := fakeRelease(t, [2]string{"windows", "amd64"})
	require.NoError(t, r.archive(all[0]))
	packed, err := zip.OpenReader(filepath.Join(r.out, all[0].folder+".zip"))
	require.NoError(t, err)
	defer packed.Close()
	var names []string
	for _, f := range packed.File {
		folder, name := filepath.Split(f.Name)
		require.Equal(t, all[0].folder+"/", folder)
		require.Equal(t, wantMode[name], f.Mode())
		require.True(t, f.Modified.Equal(r.time))
		names = append(names, name)
	}
	require.Equal(t, []string{"CHANGELOG.md", "LICENSE", "README.md", plugin}, names)
}
