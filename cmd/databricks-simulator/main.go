// SPDX-License-Identifier: MPL-2.0

// Command databricks-simulator runs a simulated Databricks workspace on a loopback port, for use without a real workspace. Its
// sub-command whoami asks any workspace, real or simulated, whose a token is.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"sync"
	"syscall"

	"vault-plugin-secrets-databricks/internal/simulator"
	"vault-plugin-secrets-databricks/internal/simulator/page"
)

// version is set when the command is built.
var version = "v0.1.1-dev"

const usage = `Usage:
  databricks-simulator [flags]    run a simulated Databricks workspace until interrupted
  databricks-simulator whoami     ask the workspace at DATABRICKS_HOST whose DATABRICKS_TOKEN is

Flags:
`

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run executes the command and returns the exit status.
func run(ctx context.Context, args []string, env func(string) string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("databricks-simulator", flag.ContinueOnError)
	flags.SetOutput(stderr)
	addr := flags.String("addr", "127.0.0.1:8899", "loopback `address` to listen on; port 0 picks a free one")
	token := flags.String("token", "", "`value` of the admin's token, so that scripts know it (default: $DATABRICKS_SIMULATOR_TOKEN, or else random)")
	quiet := flags.Bool("quiet", false, "do not log requests")
	showVersion := flags.Bool("version", false, "print the version and exit")
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return exitOK
	} else if err != nil {
		return exitUsage
	}
	if *showVersion {
		fmt.Fprintln(stdout, "databricks-simulator", version)
		return exitOK
	}
	rest := flags.Args()
	askWho := len(rest) > 0 && rest[0] == "whoami"
	if askWho {
		rest = rest[1:]
	}
	if len(rest) > 0 {
		fmt.Fprintf(stderr, "databricks-simulator: unexpected argument %q\n", rest[0])
		flags.Usage()
		return exitUsage
	}
	if askWho {
		return whoami(ctx, env, stdout, stderr)
	}
	if *token == "" {
		*token = env("DATABRICKS_SIMULATOR_TOKEN")
	}
	if strings.ContainsFunc(*token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		fmt.Fprintln(stderr, "databricks-simulator: the token must be printable ASCII without spaces")
		return exitUsage
	}
	return serve(ctx, *addr, *token, *quiet, stdout, stderr)
}

// serve runs a workspace until ctx ends.
func serve(ctx context.Context, addr, token string, quiet bool, stdout, stderr io.Writer) int {
	opts := []simulator.Option{simulator.WithAddr(addr), simulator.WithoutCallLog()}
	log := &requestLog{out: stdout, names: map[string]string{}}
	people := page.New()
	opts = append(opts, simulator.WithPage(people.Handler), simulator.WithObserver(func(c simulator.Call) {
		people.Observe(c)
		if !quiet {
			log.write(c)
		}
	}))
	w, err := simulator.Start(opts...)
	if err != nil {
		fmt.Fprintln(stderr, "databricks-simulator:", err)
		return exitFailed
	}
	defer w.Close()

	who := seed(w)
	for _, p := range []simulator.Principal{who.pipelines, who.admin, who.engine, who.alice, who.jane} {
		log.name(p.ID, p.DisplayName)
	}
	if token == "" {
		token, _ = w.AddToken(who.admin, "made by databricks-simulator", 0)
	} else {
		w.ImportToken(who.admin, token, "made by databricks-simulator", 0)
	}
	_, secret := w.AddOAuthSecret(who.engine, 0)

	fmt.Fprintf(stdout, `Simulated Databricks workspace %s

  host           %s
  page           %s%s
                 what it holds and what happens to it, for your browser
  token          %s
                 of %s, a workspace admin
  client_id      %s
  client_secret  %s
                 of %s, a service principal and workspace admin
  others         users %s and %s in group engineers;
                 groups readers and analysts, with nobody in them;
                 service principal %s: application_id %s,
                 service_principal_id %s

Everything is kept in memory and is gone when this stops (Ctrl-C).
ready
`, w.ID(), w.URL(), w.URL(), simulator.PagePath, token, who.admin.UserName, who.engine.ApplicationID, secret, who.engine.DisplayName,
		who.alice.UserName, who.jane.UserName, who.pipelines.DisplayName, who.pipelines.ApplicationID, who.pipelines.ID)

	<-ctx.Done()
	return exitOK
}

// requestLog writes one line a request.
type requestLog struct {
	mu    sync.Mutex
	out   io.Writer
	names map[string]string // by principal id
}

func (l *requestLog) name(id, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names[id] = name
}

// credential matches tokens and secrets. A path may contain one by mistake, in place of a token id.
var credential = regexp.MustCompile(`(dapi|dose|eyJ)[0-9A-Za-z._-]+`)

func (l *requestLog) write(c simulator.Call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	who := l.names[c.Principal]
	if who == "" {
		who = "-"
	}
	status := fmt.Sprint(c.Status)
	if c.Status == 0 {
		status = "cut"
	}
	path := credential.ReplaceAllString((&url.URL{Path: c.Path}).EscapedPath(), "$1…")
	fmt.Fprintf(l.out, "%s %s %s %s %s\n", c.Time.UTC().Format("15:04:05.000"), c.Method, path, status, who)
}
