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
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"vault-plugin-secrets-databricks/internal/provenance"
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
status is passed on. It gets the SIGINT, SIGTERM, SIGHUP and SIGQUIT that are sent to this process.

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
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	if !signal.Ignored(syscall.SIGHUP) { // as it is under nohup
		signal.Notify(signals, syscall.SIGHUP)
	}
	// Who reads standard output or error may go away. Then writing fails, and does not end the process before it has revoked its leases.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr, signals))
}

// run executes the command and returns the exit status.
func run(args []string, stdout, stderr io.Writer, signals chan os.Signal) int {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	role := flags.String("role", "", "`name` of the role that makes the tokens; required")
	mount := flags.String("mount", "databricks", "`path` where the secrets engine is mounted")
	tokenFile := flags.String("token-file", "", "`file` with the Vault token, such as a sink of Vault Agent; read again whenever Vault is asked")
	ttl := flags.String("ttl", "", "`duration` of the leases, such as 30m; at most what the role allows")
	scopes := flags.String("scopes", "", "API `scopes` of the tokens, with commas between; those of the role, or some of them")
	listen := flags.String("listen", "127.0.0.1:0", "`address` to listen on: 127.0.0.1 or localhost and a port; port 0 picks a free one")
	showVersion := flags.Bool("version", false, "print the version and exit")
	asJSON := flags.Bool("json", false, "with -version: print also the commit, the Go version and all modules, as JSON")
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
	if *showVersion && !*asJSON {
		fmt.Fprintln(stdout, name, version)
		return exitOK
	}
	logger := log.New(stderr, name+": ", 0)
	fail := func(status int, err error) int {
		logger.Print(err)
		return status
	}
	if *showVersion {
		if err := provenance.Write(stdout, name, version); err != nil {
			return fail(exitFailed, err)
		}
		return exitOK
	}
	if *asJSON {
		return fail(exitUsage, errors.New("-json goes with -version"))
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
	narrowed := url.Values{}
	for field, value := range map[string]string{"ttl": *ttl, "scopes": *scopes} {
		if value != "" {
			narrowed.Set(field, value)
		}
	}
	vault, err := newVault(strings.Trim(*mount, "/"), *role, *tokenFile, narrowed)
	if err != nil {
		return fail(exitFailed, err)
	}
	keeper := newKeeper(vault, logger)
	first, ended, err := start(keeper, signals)
	if err != nil {
		return fail(exitFailed, err)
	}
	if ended != nil {
		if err := keeper.close(); err != nil {
			logger.Print(err)
		}
		return exitOfSignal(ended)
	}

	s := newService(keeper.token, listener.Addr().(*net.TCPAddr).Port)
	server := &http.Server{Handler: s, ReadTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: logger}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()

	status := exitOK
	variables := [][2]string{{"DATABRICKS_HOST", first.host}, {"DATABRICKS_AUTH_TYPE", "metadata-service"}, {"DATABRICKS_METADATA_SERVICE_URL", s.url}}
	if len(command) > 0 {
		status, err = runCommand(command, variables, signals)
		if err != nil {
			logger.Print(err)
		}
	} else if err := export(stdout, variables); err != nil {
		status = fail(exitFailed, err)
	} else {
		logger.Printf("serving access tokens of role %s; the first one lasts until %s", *role, first.expires.Format(time.RFC3339))
		select {
		case <-signals:
		case err := <-served:
			status = fail(exitFailed, err)
		}
	}
	end()

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		_ = server.Close() // what others hold open is not to be in the way of a connection to Vault
	}
	if err := keeper.close(); err != nil {
		logger.Print(err)
		return cmp.Or(status, exitFailed)
	}
	return status
}

// start gets the first token. A signal that comes meanwhile is returned; the token is there all the same, since whether Vault has leased it
// is known only when Vault has answered.
func start(k *keeper, signals chan os.Signal) (first accessToken, ended os.Signal, err error) {
	started := make(chan struct{})
	go func() {
		first, err = k.start()
		close(started)
	}()
	select {
	case <-started:
	case ended = <-signals:
		end()
		k.log.Printf("%s: ending as soon as Vault has answered, so that no lease is left", ended)
		<-started
	}
	return first, ended, err
}

// end lets the keys of a terminal end the process at once from now on. SIGTERM and SIGHUP don't: a terminal that is closed sends two, as its
// shell does so, too, and the leases are yet to be revoked.
func end() { signal.Reset(os.Interrupt, syscall.SIGQUIT) }

// export writes the variables as a shell takes them.
func export(w io.Writer, variables [][2]string) error {
	var text strings.Builder
	for _, v := range variables {
		fmt.Fprintf(&text, "export %s='%s'\n", v[0], v[1])
	}
	_, err := io.WriteString(w, text.String())
	return err
}
