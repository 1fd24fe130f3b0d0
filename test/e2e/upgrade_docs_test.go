// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"
)

// buildVersion builds the plugin of the working tree as the given version. With another revision it is another file.
func buildVersion(t *testing.T, version, revision, file string) {
	t.Helper()
	flags := "-X " + pluginName + ".Version=" + version + " -X " + pluginName + "/internal/provenance.revision=" + revision
	args := []string{"build", "-buildvcs=false", "-ldflags", flags, "-o", file}
	if raceEnabled {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "../../cmd/"+pluginName)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// released is a folder as one has it who has downloaded v0.3.0 for Linux and SHA256SUMS, and built the plugin once more, in bin.
func released(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	const folder = pluginName + "_v0.3.0_linux_amd64"
	buildVersion(t, "v0.3.0", "one", filepath.Join(dir, folder, pluginName))
	buildVersion(t, "v0.3.0", "another", filepath.Join(dir, "bin", pluginName))
	pack := exec.Command("sh", "-c", "tar -czf "+folder+".tar.gz "+folder+" && sha256sum "+folder+".tar.gz "+folder+"/* >SHA256SUMS && "+
		"echo '0000000000000000000000000000000000000000000000000000000000000000  not-downloaded.zip' >>SHA256SUMS && rm -r "+folder)
	pack.Dir = dir
	out, err := pack.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return dir
}

// TestCommandsOfTheUpgradeManual types the commands of docs/upgrade.md, in its order, and compares what they answer with the answers
// there: from v0.2.0 to v0.3.0, back, and forth again with a pin, while a client mints all the time and leases of every version live.
func TestCommandsOfTheUpgradeManual(t *testing.T) {
	t.Parallel()
	manual, err := os.ReadFile("../../docs/upgrade.md")
	require.NoError(t, err)
	dir := released(t)
	s := newOwnServer(t)
	old := pluginName + "_v0.2.0"
	buildVersion(t, "v0.2.0", "", filepath.Join(s.pluginDir, old))
	require.NoError(t, s.register(pluginName, old))
	m := newMountOn(t, s.vaultServer, pluginName)
	m.configure()
	byHand := m.workspace.Snapshot()

	bin := t.TempDir()
	require.NoError(t, os.Symlink(s.vault, filepath.Join(bin, "vault")))
	asHere := strings.NewReplacer(" databricks/", " "+m.path+"/", " mounts=databricks/", " mounts="+m.path+"/",
		"/etc/vault/plugins", s.pluginDir)

	leases := []*api.Secret{m.mint("etl")}
	stop := mintsAllTheTime(m)
	versions := []string{"v0.2.0"}
	for _, block := range consoleBlock.FindAllStringSubmatch(string(manual), -1) {
		text := asHere.Replace(lineGoesOn.ReplaceAllString(block[1], ""))
		for _, part := range strings.Split("\n"+text, "\n$ ")[1:] {
			line, answer, _ := strings.Cut(part, "\n")
			cmd := exec.Command("sh", "-c", line)
			cmd.Dir = dir
			cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + bin + string(os.PathListSeparator) + os.Getenv("PATH"), "VAULT_ADDR=" + s.addr, "VAULT_TOKEN=" + s.rootToken}
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s\n%s", line, out)
			said := strings.Join(strings.Fields(string(out)), " ")
			for _, want := range strings.Split(strings.TrimSpace(answer), "\n") {
				want, _, _ = strings.Cut(strings.Join(strings.Fields(want), " "), " …")
				require.Contains(t, said, want, line)
			}
			if strings.Contains(line, "plugin_version") {
				versions = append(versions, said)
				leases = append(leases, m.mint("etl"))
				for _, lease := range leases {
					_, err := m.client.Sys().Renew(lease.LeaseID, 5400)
					require.NoError(t, err, "%s renews what any version made", said)
					require.True(t, m.works(tokenOf(lease)))
				}
			}
		}
	}
	require.Equal(t, []string{"v0.2.0", "v0.3.0", "v0.2.0", "v0.3.0", "v0.3.0", "v0.3.0"}, versions)
	minted := stop()
	require.NotEmpty(t, minted)
	for _, lease := range append(leases, minted...) {
		m.revoke(lease)
		require.False(t, m.works(tokenOf(lease)), "a lease of any version is revoked")
	}
	require.Equal(t, byHand, m.workspace.Snapshot(), "nothing is left")
	require.NoFileExists(t, filepath.Join(s.pluginDir, old))

	out, err := exec.Command(filepath.Join(s.pluginDir, pluginName+"_v0.3.0"), "-version", "-json").CombinedOutput()
	require.NoError(t, err)
	require.Contains(t, string(out), `"revision": "another"`, "the file was replaced")
}

// mintsAllTheTime mints one lease after the other until it is stopped, which returns them. None may fail.
func mintsAllTheTime(m *mount) (stop func() []*api.Secret) {
	ctx, cancel := context.WithCancel(context.Background())
	m.t.Cleanup(cancel)
	var leases []*api.Secret
	done := make(chan error, 1)
	go func() {
		pause := time.NewTicker(20 * time.Millisecond) // so that there are not thousands to revoke
		defer pause.Stop()
		for ctx.Err() == nil {
			secret, err := m.tryMint("etl", nil)
			if err != nil {
				done <- err
				return
			}
			leases = append(leases, secret)
			<-pause.C
		}
		done <- nil
	}()
	return func() []*api.Secret {
		m.t.Helper()
		cancel()
		require.NoError(m.t, <-done, "after %d mints", len(leases))
		return leases
	}
}
