// SPDX-License-Identifier: MPL-2.0

package main

import (
	"archive/tar"
	"crypto/x509"
	"io"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/stretchr/testify/require"
)

// openLayout returns the images in a layout, by platform.
func openLayout(t *testing.T, folder string) map[string]v1.Image {
	t.Helper()
	all, err := layout.ImageIndexFromPath(folder)
	require.NoError(t, err)
	manifest, err := all.IndexManifest()
	require.NoError(t, err)
	require.Len(t, manifest.Manifests, 1, "crane and skopeo take the only entry")
	index, err := all.ImageIndex(manifest.Manifests[0].Digest)
	require.NoError(t, err)
	require.NoError(t, validate.Index(index), "every blob has the checksum and the size that it is said to have")
	manifest, err = index.IndexManifest()
	require.NoError(t, err)
	require.Equal(t, types.OCIImageIndex, manifest.MediaType)
	images := make(map[string]v1.Image)
	for _, descriptor := range manifest.Manifests {
		images[descriptor.Platform.String()], err = index.Image(descriptor.Digest)
		require.NoError(t, err)
	}
	return images
}

// requireImage requires that an image is what Vault and OpenBao need, and returns the binary in its root.
func requireImage(t *testing.T, image v1.Image, arch, version string) string {
	t.Helper()
	require.NotNil(t, image)
	config, err := image.ConfigFile()
	require.NoError(t, err)
	require.Equal(t, "linux", config.OS)
	require.Equal(t, arch, config.Architecture)
	require.Equal(t, []string{"/" + plugin}, config.Config.Entrypoint)
	require.Empty(t, config.Config.Cmd)
	require.Equal(t, "65532:65532", config.Config.User)
	require.Equal(t, version, config.Config.Labels["org.opencontainers.image.version"])
	manifest, err := image.Manifest()
	require.NoError(t, err)
	require.Equal(t, types.OCIManifestSchema1, manifest.MediaType)
	require.Equal(t, version, manifest.Annotations["org.opencontainers.image.version"])
	require.Equal(t, config.Created.UTC().Format(time.RFC3339), manifest.Annotations["org.opencontainers.image.created"])

	files := make(map[string]string)
	unpacked := mutate.Extract(image)
	defer unpacked.Close()
	for in := tar.NewReader(unpacked); ; {
		header, err := in.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		content, err := io.ReadAll(in)
		require.NoError(t, err)
		files[header.Name] = string(content)
		require.True(t, header.ModTime.Equal(config.Created.Time), header.Name)
		require.Zero(t, header.Uid+header.Gid)
		require.Equal(t, header.Name == plugin, header.FileInfo().Mode()&0o111 == 0o111, "any user may run the binary")
	}
	require.Len(t, files, 2)
	require.True(t, x509.NewCertPool().AppendCertsFromPEM([]byte(files[rootsFile])))
	require.Greater(t, strings.Count(files[rootsFile], "BEGIN CERTIFICATE"), 50)
	return files[plugin]
}

// push types what docs/upgrade.md says to publish an image, for a registry of the test, and returns the name of the image there.
func push(t *testing.T, folder, version string) string {
	t.Helper()
	server := httptest.NewServer(registry.New())
	t.Cleanup(server.Close)
	name := strings.TrimPrefix(server.URL, "http://") + "/" + plugin
	runIn(t, "..", "go", "tool", "crane", "push", folder, name+":"+version)
	runIn(t, "..", "go", "tool", "crane", "tag", name+":"+version, strings.TrimPrefix(version, "v"))
	return name + ":" + version
}

func TestImageIsOneForEachArchitecture(t *testing.T) {
	r, all := fakeRelease(t, [2]string{"linux", "amd64"}, [2]string{"linux", "arm64"})
	require.NoError(t, r.image(plugin, all))
	folder := filepath.Join(r.out, plugin+"_v1.2.3_oci")
	images := openLayout(t, folder)
	require.Len(t, images, 2)
	for _, a := range all {
		require.Equal(t, "the plugin for "+a.platform(), requireImage(t, images[a.platform()], a.arch, "v1.2.3"))
	}

	name := push(t, folder, "v1.2.3")
	for _, tag := range []string{"v1.2.3", "1.2.3"} { // OpenBao asks for the first, Vault for the second.
		pulled, err := crane.Pull(strings.TrimSuffix(name, "v1.2.3")+tag, crane.WithPlatform(&v1.Platform{OS: "linux", Architecture: "arm64"}))
		require.NoError(t, err, tag)
		require.Equal(t, "the plugin for linux/arm64", requireImage(t, pulled, "arm64", "v1.2.3"), tag)
	}
}
