// SPDX-License-Identifier: MPL-2.0

package examples

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"
)

// mountPrefix is where the examples mount the engine.
const mountPrefix = "databricks/"

// parseScript reads the commands of a script, whose syntax bash checks.
func parseScript(text []byte) ([]Request, error) {
	if out, err := exec.Command("bash", "-n", "-c", string(text)).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("bash: %w: %s", err, out)
	}
	if !strings.HasPrefix(string(text), "#!/bin/") {
		return nil, errors.New("has no interpreter in its first line")
	}
	return parseCommands(string(text))
}

var consoleBlock = regexp.MustCompile("(?s)```console\\n(.*?)```")

// parseManual reads the commands of a page in Markdown.
func parseManual(text string) ([]Request, error) {
	var requests []Request
	for _, block := range consoleBlock.FindAllStringSubmatch(text, -1) {
		of, err := parseCommands(block[1])
		if err != nil {
			return nil, err
		}
		requests = append(requests, of...)
	}
	return requests, nil
}

// ours are the commands of Vault that address paths; others are those that don't, and need no check.
var (
	ours   = map[string]logical.Operation{"read": logical.ReadOperation, "write": logical.UpdateOperation, "patch": logical.PatchOperation, "delete": logical.DeleteOperation, "list": logical.ListOperation}
	others = []string{"agent", "auth", "kv", "lease", "login", "plugin", "policy", "secrets", "token"}
)

var (
	commandStart = regexp.MustCompile(`(?m)(?:^|[\s(;|&!])(?:vault|bao) +([a-z]+)((?:[^\n\\]|\\\n|\\.)*)`)
	comment      = regexp.MustCompile(`(?m)^\s*#.*$`)
	heredoc      = regexp.MustCompile(`<<-?'?([A-Z]+)'?`)
	jqField      = regexp.MustCompile(`\.data\.([a-z_]+)`)
)

// parseCommands returns what the vault commands in a text of shell do. Each begins on a line of its own, or after a shell operator.
func parseCommands(text string) ([]Request, error) {
	uncommented := comment.ReplaceAllString(text, "")
	var requests []Request
	for _, at := range commandStart.FindAllStringSubmatchIndex(uncommented, -1) {
		command, rest := uncommented[at[2]:at[3]], uncommented[at[4]:at[5]]
		words, err := words(strings.ReplaceAll(rest, "\\\n", " "))
		if err != nil {
			return nil, fmt.Errorf("vault %s%s: %w", command, rest, err)
		}
		operation, addressed := ours[command]
		switch {
		case !addressed && !slices.Contains(others, command):
			return nil, fmt.Errorf("there is no command vault %s", command)
		case !addressed:
			continue
		}
		request, err := parseCommand(operation, words)
		if err != nil {
			return nil, fmt.Errorf("vault %s%s: %w", command, rest, err)
		}
		if _, body := request.Data["-"]; body {
			delete(request.Data, "-")
			mark := heredoc.FindStringSubmatch(rest)
			if mark == nil {
				return nil, fmt.Errorf("vault %s%s: reads its parameters from something else than a here-document", command, rest)
			}
			document, _, found := strings.Cut(strings.TrimPrefix(uncommented[at[1]:], "\n"), "\n"+mark[1])
			if !found {
				return nil, fmt.Errorf("vault %s%s: its here-document does not end", command, rest)
			}
			if err := json.Unmarshal([]byte(document), &request.Data); err != nil {
				return nil, fmt.Errorf("vault %s%s: %w", command, rest, err)
			}
		}
		requests = append(requests, request)
	}
	if len(requests) > 0 {
		last := &requests[len(requests)-1]
		for _, field := range jqField.FindAllStringSubmatch(uncommented, -1) {
			last.Answer = append(last.Answer, field[1])
		}
	}
	return requests, nil
}

// parseCommand reads flags, path and parameters of a command. A parameter "-" stands for all that standard input has, and "@file" for
// all that a file has.
func parseCommand(operation logical.Operation, words []string) (Request, error) {
	request := Request{Operation: operation, Data: map[string]any{}}
	for _, word := range words {
		flag, isFlag := strings.CutPrefix(word, "-")
		switch name, value, isPair := strings.Cut(word, "="); {
		case isFlag && flag != "" && request.Path == "":
			if field, ok := strings.CutPrefix(flag, "field="); ok {
				request.Answer = append(request.Answer, field)
			}
		case request.Path == "":
			request.Path = shellVariable.ReplaceAllString(word, "$$")
		case isPair && (value == "-" || strings.HasPrefix(value, "@") || strings.Contains(value, "$") || strings.Contains(value, "…")):
			request.Data[name] = Unknown{}
		case isPair:
			request.Data[name] = value
		case word == "-":
			request.Data["-"] = Unknown{}
		case strings.HasPrefix(word, "@"):
		default:
			return Request{}, fmt.Errorf("%q is neither a path nor a parameter", word)
		}
	}
	if request.Path == "" {
		return Request{}, errors.New("has no path")
	}
	return request, nil
}

var shellVariable = regexp.MustCompile(`\$\{?[A-Za-z0-9_]+\}?`)

// words splits a command as a shell does, up to its end: an operator outside of quotes. Quotes are removed; variables stay.
func words(text string) ([]string, error) {
	var all []string
	var word strings.Builder
	in, started := rune(0), false
	end := func() {
		if started {
			all = append(all, word.String())
		}
		word.Reset()
		started = false
	}
	for _, c := range text {
		switch {
		case in != 0 && c == in:
			in = 0
		case in != 0:
			word.WriteRune(c)
		case c == '\'' || c == '"':
			in, started = c, true
		case strings.ContainsRune("|;&)<>\n", c):
			end()
			return all, nil
		case c == ' ' || c == '\t':
			end()
		default:
			word.WriteRune(c)
			started = true
		}
	}
	if in != 0 {
		return nil, errors.New("a quote is not closed")
	}
	end()
	return all, nil
}
