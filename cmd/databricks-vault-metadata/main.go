// SPDX-License-Identifier: MPL-2.0

// Command databricks-vault-metadata answers Databricks' SDKs, CLI and Terraform provider with access tokens that Vault leases, by the
// protocol of their authentication type metadata-service. docs/metadata-service.md is its manual.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const name = "databricks-vault-metadata"

// version is set when the command is built.
var version = "v0.1.0-dev"

const usage = `Hands Databricks' SDKs, CLI and Terraform provider access tokens that Vault leases, fresh for as long as they run.

Usage:
  databricks-vault-metadata -role <role> [flags] -- <command> [arguments]
        run a command that finds its token by itself, and revoke the token when it ends
  databricks-vault-metadata -role <role> [flags] >env &
        serve until SIGINT, SIGTERM or SIGHUP, then revoke; standard output is the variables to export

The role must make tokens: credential_type oauth_token, pat or obo_token. The command's environment has DATABRICKS_HOST,
DATABRICKS_AUTH_TYPE and DATABRICKS_METADATA_SERVICE_URL, and no variable that gives it another credential or profile. Its exit
status is passed on, and signals are passed to it.

Flags:
`

const environmentHelp = `
Vault, by the variables of the vault command:
  VAULT_ADDR, VAULT_NAMESPACE, VAULT_CACERT, VAULT_CLIENT_CERT, VAULT_SKIP_VERIFY, ...
        where Vault is. It can be the listener of Vault Agent or Vault Proxy, also as VAULT_AGENT_ADDR or VAULT_PROXY_ADDR
  VAULT_TOKEN
        the token, unless -token-file is given. Without both it is read from ~/.vault-token, where 'vault login' puts it. Without
        any, and with VAULT_AGENT_ADDR or VAULT_PROXY_ADDR, none is sent, since Agent or Proxy adds its own

The token needs "read" on <mount>/creds/<role>, and "update" on sys/leases/revoke to end the leases early, as in
examples/policies/consumer.hcl. A renewable token is renewed. The leases end with the token, so it should outlive the command.

Exit status: that of the command, or 128 and the signal that ended it. 1: there is no token, or one is left that Vault did not
revoke. 2: wrong usage. 126 or 127: the command can't be run or isn't there.
`

// Exit statuses.
const (
	exitOK            = 0
	exitFailed        = 1
	exitUsage         = 2
	exitNotExecutable = 126
	exitNotFound      = 127
)

func main() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr, signals))
}

// run executes the command and returns the exit status.
func run(args []string, stdout, stderr io.Writer, signals chan os.Signal) int {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	role := flags.String("role", "", "`name` of the role that makes the tokens; required")
	mount := flags.String("mount", "databricks", "`path` where the secrets engine is mounted")
	tokenFile := flags.String("token-file", "", "`file` with the Vault token, such as a sink of Vault Agent; read again whenever Vault is asked")
	listen := flags.String("listen", "127.0.0.1:0", "`address` to listen on: 127.0.0.1 or localhost and a port; port 0 picks a free one")
	showVersion := flags.Bool("version", false, "print the version and exit")
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
		fmt.Fprint(stderr, environmentHelp)
	}
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return exitOK
	} else if err != nil {
		return exitUsage
	}
	if *showVersion {
		fmt.Fprintln(stdout, name, version)
		return exitOK
	}
	logger := log.New(stderr, name+": ", 0)
	fail := func(status int, err error) int {
		logger.Print(err)
		return status
	}
	command := flags.Args()
	if *role == "" || strings.Contains(*role, "/") {
		return fail(exitUsage, errors.New("-role must be the name of a role; list them: vault list "+*mount+"/roles. -help explains the rest"))
	}
	if len(command) > 0 {
		if _, err := exec.LookPath(command[0]); errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			return fail(exitNotFound, err)
		} else if err != nil {
			return fail(exitNotExecutable, err)
		}
	}
	address, err := loopback(*listen)
	if err != nil {
		return fail(exitUsage, err)
	}
	listener, err := net.Listen("tcp4", address)
	if err != nil {
		return fail(exitFailed, err)
	}
	defer listener.Close()
	vault, err := newVault(strings.Trim(*mount, "/"), *role, *tokenFile)
	if err != nil {
		return fail(exitFailed, err)
	}
	keeper := newKeeper(vault, logger)
	first, err := keeper.start()
	if err != nil {
		return fail(exitFailed, err)
	}

	s := newService(keeper.token, listener.Addr().(*net.TCPAddr).Port)
	server := &http.Server{Handler: s, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: logger}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()

	status := exitOK
	variables := [][2]string{{"DATABRICKS_HOST", first.host}, {"DATABRICKS_AUTH_TYPE", "metadata-service"}, {"DATABRICKS_METADATA_SERVICE_URL", s.url}}
	if len(command) > 0 {
		status, err = runCommand(command, variables, signals)
		if err != nil {
			logger.Print(err)
		}
	} else {
		for _, v := range variables {
			fmt.Fprintf(stdout, "export %s='%s'\n", v[0], v[1])
		}
		logger.Printf("serving access tokens of role %s; the first one lasts until %s", *role, first.expires.Format(time.RFC3339))
		select {
		case <-signals:
		case err := <-served:
			status = fail(exitFailed, err)
		}
	}
	signal.Stop(signals) // a second one ends the process at once

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = server.Shutdown(ctx)
	if err := keeper.close(); err != nil {
		logger.Print(err)
		return cmp.Or(status, exitFailed)
	}
	return status
}
