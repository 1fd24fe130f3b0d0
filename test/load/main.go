// SPDX-License-Identifier: MPL-2.0

// Command load measures the built plugin in a real Vault server against a simulated workspace, for longer and with more
// leases than a test should take:
//
//	go run ./test/load storm    revoke many leases at once, while Databricks throttles
//	go run ./test/load soak     mint and revoke for a long time, and watch the memory of the plugin's process
//
// Each prints one line of figures, and fails when a limit that the engine must keep is broken. Settings are environment
// variables; see [stormSettings] and [soakSettings]. Vault is found as scripts/find-vault.sh finds it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	env := &environment{}
	program := func(context.Context) error { return fmt.Errorf("usage: load storm|soak, not %q", args) }
	if len(args) == 1 {
		switch args[0] {
		case "storm":
			settings := stormSettingsOf(env)
			program = func(ctx context.Context) error { return storm(ctx, settings) }
		case "soak":
			settings := soakSettingsOf(env)
			program = func(ctx context.Context) error { return soak(ctx, settings) }
		}
	}
	if env.err != nil {
		return env.err
	}
	return program(ctx)
}

// environment reads settings from environment variables. It keeps the first error.
type environment struct{ err error }

// count returns a whole number above 0, or missing if the variable is empty.
func (e *environment) count(name string, missing int) int {
	return setting(e, name, missing, strconv.Atoi)
}

// duration returns a duration above 0 such as 10m, or missing if the variable is empty.
func (e *environment) duration(name string, missing time.Duration) time.Duration {
	return setting(e, name, missing, time.ParseDuration)
}

func setting[T int | time.Duration](e *environment, name string, missing T, parse func(string) (T, error)) T {
	text := os.Getenv(name)
	if text == "" {
		return missing
	}
	value, err := parse(text)
	if (err != nil || value <= 0) && e.err == nil {
		e.err = fmt.Errorf("%s is %q; it must be a value above 0, such as %v", name, text, max(missing, 1))
	}
	return value
}
