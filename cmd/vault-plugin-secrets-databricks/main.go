// SPDX-License-Identifier: MPL-2.0

// Command vault-plugin-secrets-databricks is the Databricks secrets engine as an external Vault plugin. Vault starts it; one
// process serves every mount of it. Started manually, it only prints how to register it with Vault.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/plugin"

	databricks "vault-plugin-secrets-databricks"
	"vault-plugin-secrets-databricks/internal/provenance"
)

const name = "vault-plugin-secrets-databricks"

// ballastSize is that of an allocation by which the garbage collector runs less often. The collector runs when the heap has doubled. What the
// engine keeps is a few MiB, and each mint leaves tens of KiB of garbage, so under load there would be several collections a second, which
// took a sixth of the plugin's CPU time. The ballast's own pages are never touched, so it takes no memory itself, but the heap may hold as
// much garbage more before it is collected: once for all mounts of the process, and however many they mint.
const ballastSize = 16 << 20

func main() {
	ballast := make([]byte, ballastSize)
	status := run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	runtime.KeepAlive(ballast)
	os.Exit(status)
}

// run executes the command and returns the exit status: 0 when it printed what was asked for or Vault ended it, 1 when it was
// not started by Vault or could not serve or print, 2 for arguments it doesn't know.
func run(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	meta := &api.PluginAPIClientMeta{}
	flags := meta.FlagSet()
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintf(stderr, "%s is started by Vault. The flags for manual use are -version and, with it, -json.\n", name)
	}
	version := flags.Bool("version", false, "print the version and exit")
	asJSON := flags.Bool("json", false, "with -version: print also the commit, the Go version and all modules, as JSON")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	switch {
	case *version && *asJSON:
		if err := provenance.Write(stdout, name, databricks.Version); err != nil {
			fmt.Fprintf(stderr, "%s: %s\n", name, err)
			return 1
		}
		return 0
	case *asJSON:
		fmt.Fprintf(stderr, "%s: -json goes with -version\n", name)
		return 2
	case *version:
		fmt.Fprintln(stdout, name, databricks.Version)
		return 0
	}
	if getenv(plugin.HandshakeConfig.MagicCookieKey) != plugin.HandshakeConfig.MagicCookieValue {
		explain(stderr)
		return 1
	}

	err := plugin.ServeMultiplex(&plugin.ServeOpts{
		BackendFactoryFunc: databricks.Factory,
		// Vault 1.12 and later bring their own mutual TLS and ignore this. Older ones hand the plugin a wrapped certificate.
		TLSProviderFunc: api.VaultPluginTLSProvider(meta.GetTLSConfig()),
	})
	if err != nil {
		fmt.Fprintf(stderr, "%s: %s\n", name, err)
		return 1
	}
	return 0
}

// explain prints what this program is and the commands that register it, with the checksum of the executable.
func explain(w io.Writer) {
	sum, file := "<sha256 of this file>", name
	if exe, err := os.Executable(); err == nil {
		file = filepath.Base(exe)
		if s, err := sha256File(exe); err == nil {
			sum = s
		}
	}
	fmt.Fprintf(w, `This is %s %s, a secrets engine that Vault starts: it mints
short-lived Databricks tokens as Vault leases. Put the file into Vault's plugin_directory, then:

  vault plugin register -sha256=%s -command=%s secret %s
  vault secrets enable -path=databricks %s
  vault path-help databricks
`, name, databricks.Version, sum, file, name, name)
}

func sha256File(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
