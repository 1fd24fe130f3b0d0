// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	databricks "vault-plugin-secrets-databricks"
)

func runWith(args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = run(args, func(string) string { return "" }, &out, &errs)
	return status, out.String(), errs.String()
}

func TestVersionIsPrintedAlone(t *testing.T) {
	status, stdout, stderr := runWith("-version")
	require.Equal(t, 0, status)
	require.Equal(t, "vault-plugin-secrets-databricks "+databricks.Version+"\n", stdout)
	require.Empty(t, stderr)
}

func TestVersionAsJSONSaysWhatItWasBuiltFrom(t *testing.T) {
	status, stdout, stderr := runWith("-version", "-json")
	require.Equal(t, 0, status)
	require.Empty(t, stderr)
	var answer struct {
		Name      string
		Version   string
		GoVersion string `json:"go_version"`
		Platform  string
	}
	require.NoError(t, json.Unmarshal([]byte(stdout), &answer))
	require.Equal(t, "vault-plugin-secrets-databricks", answer.Name)
	require.Equal(t, databricks.Version, answer.Version)
	require.Equal(t, runtime.Version(), answer.GoVersion)
	require.Equal(t, runtime.GOOS+"/"+runtime.GOARCH, answer.Platform)
}

func TestJSONWithoutVersionIsRefused(t *testing.T) {
	status, stdout, stderr := runWith("-json")
	require.Equal(t, 2, status)
	require.Empty(t, stdout)
	require.Contains(t, stderr, "-json goes with -version")
}

func TestStartedByHandExplainsHowToRegister(t *testing.T) {
	status, stdout, stderr := runWith()
	require.Equal(t, 1, status)
	require.Empty(t, stdout, "stdout belongs to the plugin handshake")
	require.Contains(t, stderr, "vault plugin register -sha256=")
	require.Contains(t, stderr, "vault secrets enable -path=databricks vault-plugin-secrets-databricks")

	exe, err := os.Executable()
	require.NoError(t, err)
	sum, err := sha256File(exe)
	require.NoError(t, err)
	require.Regexp(t, regexp.MustCompile(`^[0-9a-f]{64}$`), sum)
	require.Contains(t, stderr, sum, "the checksum is that of the running file")
}

func TestUnknownFlagIsRefused(t *testing.T) {
	status, stdout, stderr := runWith("-listen=:80")
	require.Equal(t, 2, status)
	require.Empty(t, stdout)
	require.Contains(t, stderr, "-listen")
}

func TestHelpSaysWhoStartsIt(t *testing.T) {
	status, _, stderr := runWith("-h")
	require.Equal(t, 0, status)
	require.Contains(t, stderr, "started by Vault")
}

func TestVaultsTLSFlagsAreAccepted(t *testing.T) {
	status, stdout, _ := runWith("-ca-cert=/ca.pem", "-tls-skip-verify", "-version")
	require.Equal(t, 0, status)
	require.Contains(t, stdout, databricks.Version)
}

func TestSHA256FileOfAbsentFileFails(t *testing.T) {
	_, err := sha256File(t.TempDir() + "/absent")
	require.ErrorIs(t, err, os.ErrNotExist)
}
