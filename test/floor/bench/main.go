// SPDX-License-Identifier: MPL-2.0

// Bench measures the engine against a plugin that does nothing, in turn on one real Vault server with a Databricks that answers at once, and
// writes what it found to docs/benchmarks.md, with plots. Run it by make bench-vault.
//
// With -terraform it also measures a binary of HashiCorp's engine for HCP Terraform, a peer that keeps no write-ahead log.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"vault-plugin-secrets-databricks/test/floor/fake"
)

const ourPlugin = "vault-plugin-secrets-databricks"

func main() {
	if err := measureAll(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func measureAll() error {
	vault := flag.String("vault", "", "Vault `binary`")
	plugin := flag.String("plugin", "", "the engine's `binary`")
	terraform := flag.String("terraform", "", "a `binary` of HashiCorp's engine for HCP Terraform, to measure it, too")
	rounds := flag.Int("rounds", 3, "rounds of each measurement")
	n := flag.Int("n", 4000, "mints of a measurement; a quarter of it with one client")
	docs := flag.String("docs", "", "`folder` to write benchmarks.md and its plots to; empty prints the page")
	flag.Parse()
	if *vault == "" || *plugin == "" {
		return errors.New("-vault and -plugin are needed; run it by make bench-vault")
	}
	dir, err := os.MkdirTemp("", "databricks-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	null := filepath.Join(dir, "nullplugin")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", null, "./nullplugin")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the null plugin: %w: %s", err, out)
	}

	plugins := map[string]string{"nullplugin": null, ourPlugin: *plugin}
	engines := []engine{
		{floorName, "nullplugin", func(string, string) []write { return nil }},
		{ourName, ourPlugin, func(url, role string) []write {
			return []write{
				{"config", map[string]any{"host": url, "token": "dapi00000000000000000000000000000000"}},
				{"roles/" + role, map[string]any{"credential_type": "pat", "ttl": "1h", "max_ttl": "2h"}},
			}
		}},
	}
	if *terraform != "" {
		plugins["vault-plugin-secrets-terraform"] = *terraform
		engines = append(engines, engine{peerName, "vault-plugin-secrets-terraform", func(url, role string) []write {
			return []write{
				{"config", map[string]any{"token": "abc", "address": url}},
				{"role/" + role, map[string]any{"user_id": "user-1", "ttl": "1h", "max_ttl": "2h"}},
			}
		}})
	}
	workspace, err := fake.Start()
	if err != nil {
		return err
	}
	defer workspace.Close()
	server, err := startVault(context.Background(), *vault, dir, plugins)
	if err != nil {
		return err
	}
	defer server.stop()
	b := &bench{server: server, fake: workspace, engines: engines, rounds: *rounds, n: *n, progress: os.Stderr}
	b.short = *n < 1000
	if err := b.all(); err != nil {
		return err
	}
	b.say("")
	fmt.Print(b.summary())
	if *docs == "" {
		return nil
	}
	return b.writeDocs(*docs, *vault)
}
