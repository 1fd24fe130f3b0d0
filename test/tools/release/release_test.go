// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/CycloneDX/cyclonedx-go"
	"github.com/stretchr/testify/require"
)

const (
	plugin     = "vault-plugin-secrets-databricks"
	repository = "../../.."
)

// runIn runs a command in a folder and returns what it said.
func runIn(t *testing.T, dir string, command ...string) string {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s\n%s", strings.Join(command, " "), out)
	return string(out)
}

// commitWorkingTree makes a repository of the files of the working tree, with one commit at a tag.
func commitWorkingTree(t *testing.T, dir string) {
	t.Helper()
	for _, file := range strings.Split(runIn(t, repository, "git", "ls-files", "-z", "-co", "--exclude-standard"), "\x00") {
		info, err := os.Stat(filepath.Join(repository, file))
		if file == "" || err != nil || info.IsDir() {
			continue // deleted, and not committed yet
		}
		content, err := os.ReadFile(filepath.Join(repository, file))
		require.NoError(t, err)
		to := filepath.Join(dir, file)
		require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o755))
		require.NoError(t, os.WriteFile(to, content, info.Mode().Perm()))
	}
	runIn(t, dir, "git", "init", "-q")
	runIn(t, dir, "git", "add", "-A")
	runIn(t, dir, "git", "-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false", "commit", "-q", "-m", "a release")
	runIn(t, dir, "git", "-c", "tag.gpgsign=false", "tag", "v0.9.0")
}

// makeRelease types make release, as the settings of a shell say, and returns the folder with the result.
func makeRelease(t *testing.T, dir, settings string) string {
	t.Helper()
	t.Log(runIn(t, dir, "sh", "-c", settings+" make release PLATFORMS=linux/"+runtime.GOARCH))
	return filepath.Join(dir, "dist")
}

// contents are the files in a folder, by name: their modes and bytes.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	require.NoError(t, filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, file)
		require.NoError(t, err)
		content, err := os.ReadFile(file)
		files[name] = string(content)
		return err
	}))
	return files
}

// TestReleaseIsTheSameElsewhere builds a release for one platform twice, of clones of one commit: in folders of other names, with
// another time zone, umask and settings of Go. Then it looks at what is in it.
func TestReleaseIsTheSameElsewhere(t *testing.T) {
	here, there := filepath.Join(t.TempDir(), "here"), filepath.Join(t.TempDir(), "somewhere", "else")
	require.NoError(t, os.Mkdir(here, 0o755))
	commitWorkingTree(t, here)
	runIn(t, here, "git", "clone", "-q", here, there)

	dist := makeRelease(t, here, "")
	first := contents(t, dist)
	settings := filepath.Join(t.TempDir(), "env") // as go env -w writes them
	require.NoError(t, os.WriteFile(settings, []byte("GOFLAGS=-tags=none\nGOEXPERIMENT=jsonv2\nGOTOOLCHAIN=local\n"), 0o600))
	second := contents(t, makeRelease(t, there, "umask 077; export TZ=Asia/Tokyo LC_ALL=C GOAMD64=v2 GOFLAGS= GOENV="+settings+";"))
	require.NotEmpty(t, first)
	for name, content := range first {
		require.True(t, second[name] == content, "%s differs", name)
		delete(second, name)
	}
	require.Empty(t, second)

	base := plugin + "_v0.9.0_linux_" + runtime.GOARCH
	binary := filepath.Join(dist, base, plugin)
	t.Run("checksums", func(t *testing.T) {
		sums := strings.Fields(first["SHA256SUMS"])
		for _, name := range []string{base + "/" + plugin, base + ".tar.gz", base + ".cdx.json", plugin + "_v0.9.0_oci.tar"} {
			require.Contains(t, sums, name)
		}
		for i := 0; i < len(sums); i += 2 {
			require.Equal(t, sha256Of(first[sums[i+1]]), sums[i], sums[i+1])
		}
	})
	t.Run("sbom", func(t *testing.T) {
		var bom cyclonedx.BOM
		require.NoError(t, cyclonedx.NewBOMDecoder(strings.NewReader(first[base+".cdx.json"]), cyclonedx.BOMFileFormatJSON).Decode(&bom))
		require.Equal(t, plugin, bom.Metadata.Component.Name)
		require.Equal(t, "v0.9.0", bom.Metadata.Component.Version)
		found := make(map[string]string)
		for _, component := range *bom.Components {
			found[component.Name] = component.Version
		}
		require.Equal(t, runtime.Version(), found["std"])
		require.Contains(t, found, "github.com/hashicorp/vault/sdk")
		require.NotContains(t, found, "honnef.co/go/tools", "a tool of the project is not in the binary")
		properties, err := json.Marshal(bom.Metadata.Properties)
		require.NoError(t, err)
		require.Contains(t, string(properties), sha256Of(first[base+"/"+plugin]))
	})
	t.Run("image", func(t *testing.T) {
		images := openLayout(t, filepath.Join(dist, plugin+"_v0.9.0_oci"))
		require.Len(t, images, 1)
		require.Equal(t, sha256Of(first[base+"/"+plugin]), sha256Of(requireImage(t, images["linux/"+runtime.GOARCH], runtime.GOARCH, "v0.9.0")))
	})
	t.Run("container", func(t *testing.T) {
		if out, err := exec.Command("docker", "info").CombinedOutput(); err != nil {
			t.Skipf("NO CONTAINER WAS RUN: the image was opened and compared, but docker info says: %v %s", err, lastLine(out))
		}
		image := push(t, filepath.Join(dist, plugin+"_v0.9.0_oci"), "v0.9.0")
		require.Equal(t, plugin+" v0.9.0\n", runIn(t, ".", "docker", "run", "--rm", "--quiet", "--network=none", "--cap-drop=ALL", image, "-version"))
	})
	t.Run("provenance", func(t *testing.T) {
		if runtime.GOOS != "linux" {
			t.Skip("the binary was built for Linux, and this is another system")
		}
		var said struct {
			Version      string
			Revision     string
			CommitTime   string `json:"commit_time"`
			Dirty        *bool
			Dependencies []struct{ Path, Version, Sum string }
		}
		require.NoError(t, json.Unmarshal([]byte(runIn(t, ".", binary, "-version", "-json")), &said))
		require.Equal(t, "v0.9.0", said.Version)
		require.Equal(t, strings.TrimSpace(runIn(t, here, "git", "rev-parse", "HEAD")), said.Revision)
		require.Regexp(t, `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`, said.CommitTime)
		require.NotNil(t, said.Dirty)
		require.False(t, *said.Dirty)
		require.Greater(t, len(said.Dependencies), 20)
		for _, module := range said.Dependencies {
			require.Regexp(t, `^h1:`, module.Sum, module.Path)
		}
	})
	t.Run("version", func(t *testing.T) {
		version := func() string { return strings.TrimSpace(runIn(t, here, "scripts/version.sh")) }
		commit := func() {
			runIn(t, here, "git", "-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false", "commit", "-q", "--allow-empty", "-m", "more")
		}
		require.Equal(t, "v0.9.0", version(), "dist is not a change")
		require.NoError(t, os.WriteFile(filepath.Join(here, "cmd", plugin, "new.go"), []byte("package main\n"), 0o644))
		require.Regexp(t, `^v0\.9\.1-dev\.0\.g[0-9a-f]{7}\.dirty$`, version(), "a file that git does not know is compiled, too")
		runIn(t, here, "git", "config", "status.showUntrackedFiles", "no")
		require.Regexp(t, `\.dirty$`, version(), "whatever git status shows to its user")
		require.NoError(t, os.Remove(filepath.Join(here, "cmd", plugin, "new.go")))
		runIn(t, here, "git", "-c", "user.name=test", "-c", "user.email=test@example.com", "tag", "-a", "-m", "a candidate", "v0.9.0-rc.1")
		require.Equal(t, "v0.9.0", version(), "the candidate became a release")
		commit()
		shallow := filepath.Join(t.TempDir(), "shallow")
		runIn(t, here, "git", "clone", "-q", "--depth=1", "file://"+here, shallow)
		require.Regexp(t, `(?s)^version: no tag is known in this shallow clone.*\nv0\.1\.1-dev\.1\.g[0-9a-f]{7}\n$`, runIn(t, shallow, "scripts/version.sh"))
		inside := filepath.Join(here, "dist", "archive")
		require.NoError(t, os.MkdirAll(inside, 0o755))
		runIn(t, here, "cp", "-r", "scripts", inside)
		require.Equal(t, "v0.1.1-dev\n", runIn(t, inside, "scripts/version.sh"), "a source archive within a repository has none of its tags")
		require.Regexp(t, `^v0\.9\.1-dev\.1\.g[0-9a-f]{7}$`, version())
		runIn(t, here, "git", "-c", "tag.gpgsign=false", "tag", "v0.10.0-rc.1")
		require.Equal(t, "v0.10.0-rc.1", version())
		commit()
		require.Regexp(t, `^v0\.10\.0-rc\.1\.dev\.1\.g[0-9a-f]{7}$`, version())
		runIn(t, here, "git", "tag", "-d", "v0.9.0", "v0.9.0-rc.1", "v0.10.0-rc.1")
		require.Regexp(t, `^v0\.1\.1-dev\.3\.g[0-9a-f]{7}$`, version())
		require.NoError(t, os.RemoveAll(filepath.Join(here, ".git")))
		require.NoError(t, os.WriteFile(filepath.Join(here, ".git"), []byte("gitdir: nowhere\n"), 0o644))
		require.Equal(t, "v0.1.1-dev", version(), "a source archive")
		out, err := exec.Command("make", "-C", here, "release").CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), "there is no commit to release")
	})
}

func lastLine(text []byte) []byte {
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return lines[len(lines)-1]
}
