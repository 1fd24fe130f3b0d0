// SPDX-License-Identifier: MPL-2.0

package client

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// echo refuses a request and repeats what was put, in a form that a server might choose.
func echo(form func(value string) string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var sent struct {
			String *string `json:"string_value"`
			Bytes  []byte  `json:"bytes_value"`
		}
		_ = json.NewDecoder(r.Body).Decode(&sent)
		value := string(sent.Bytes)
		if sent.String != nil {
			value = *sent.String
		}
		answer(400, envelope("INVALID_PARAMETER_VALUE", "bad value <"+form(value)+"> in scope s"))(w, r)
	}
}

func TestNoErrorRepeatsWhatWasPut(t *testing.T) {
	t.Parallel()
	forms := map[string]func(string) string{
		"as it is":     func(v string) string { return v },
		"twice":        func(v string) string { return v + " " + v },
		"glued":        func(v string) string { return "x" + v + v + "x" },
		"base64":       func(v string) string { return base64.StdEncoding.EncodeToString([]byte(v)) },
		"raw base64":   func(v string) string { return base64.RawStdEncoding.EncodeToString([]byte(v)) },
		"url base64":   func(v string) string { return base64.URLEncoding.EncodeToString([]byte(v)) },
		"JSON":         inJSON,
		"quoted":       func(v string) string { return fmt.Sprintf("%q", v) },
		"query":        url.QueryEscape,
		"path":         url.PathEscape,
		"HTML":         html.EscapeString,
		"on one line":  func(v string) string { return strings.Join(strings.Fields(v), " ") },
		"its halves":   func(v string) string { return v[:len(v)/2] + " … " + v[len(v)/2:] },
		"in uppercase": func(string) string { return "A VALUE" }, // repeats nothing, and loses nothing
	}
	values := []string{
		"hunter2-hunter2-hunter2",
		"p&ss <w0rd>/+=? \"quoted\" 100% \\ end",
		"-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF\nAASCBKcwggSjAgEAAoIBAQC7\n-----END PRIVATE KEY-----\n",
		"pässwört-日本語-ключ",
		"\x00\x01binary\x7f\x1b[31m and more",
	}
	for name, form := range forms {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, value := range values {
				for _, put := range []func(*Client) error{
					func(c *Client) error { return c.PutSecretString(t.Context(), "s", "k", Secret(value)) },
					func(c *Client) error { return c.PutSecretBytes(t.Context(), "s", "k", []byte(value)) },
				} {
					s := newServer(t, echo(form))
					err := put(newClient(t, patConfig(s.URL)))
					e := failureOf(t, err)
					require.Equal(t, "INVALID_PARAMETER_VALUE", e.ErrorCode)
					require.Regexp(t, `^bad value <.* in scope s$`, e.Message)
					require.True(t, utf8.ValidString(e.Message))
					if name == "in uppercase" {
						require.Contains(t, e.Message, "<A VALUE>")
						continue
					}
					require.Contains(t, e.Message, redacted)
					shown := strings.ReplaceAll(fmt.Sprintf("%s %+v", err, *e), redacted, "\x00")
					for _, text := range []string{value, strings.Join(strings.Fields(value), " "), form(value)} {
						for i := 0; i+minEcho <= len(text); i++ {
							require.NotContains(t, shown, text[i:i+minEcho])
						}
					}
				}
			}
		})
	}
}

func TestEchoesAnywhereInAnAnswer(t *testing.T) {
	t.Parallel()
	const value = "hunter2-hunter3-hunter4"
	answers := map[string]http.HandlerFunc{
		"request id":  answer(400, envelope("BAD_REQUEST", "m"), "X-Request-Id", "id-"+value),
		"code":        answer(400, envelope(value, "m")),
		"text":        answer(400, "BAD_REQUEST: it was "+value),
		"page":        answer(400, "<html><pre>it was "+value+"</pre></html>", "Content-Type", "text/html"),
		"SCIM":        answer(400, `{"detail":"it was `+value+`","status":"400"}`),
		"unavailable": answer(503, envelope("UNAVAILABLE", value)),
		"throttled":   answer(429, envelope("REQUEST_LIMIT_EXCEEDED", value)),
		"redirect":    answer(302, "", "Location", "https://"+value+".example.com/"),
		"success":     answer(200, value),
		"cut":         answer(400, envelope("BAD_REQUEST", strings.Repeat("x", maxMessage-12)+value)),
	}
	for name, handler := range answers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := patConfig(newServer(t, handler).URL)
			cfg.MaxRetries = 0
			err := newClient(t, cfg).PutSecretString(t.Context(), "s", "k", value)
			e := failureOf(t, err)
			require.NotContains(t, fmt.Sprintf("%s %+v", err, *e), "hunter")
		})
	}
}

func TestTinyValuesAreLeftInMessages(t *testing.T) {
	t.Parallel()
	const message = "Scope foo does not exist in ñandú"
	for _, value := range []string{"", "o", "foo", "ñan"} {
		s := newServer(t, answer(404, envelope("RESOURCE_DOES_NOT_EXIST", message)))
		e := failureOf(t, newClient(t, patConfig(s.URL)).PutSecretString(t.Context(), "s", "k", Secret(value)))
		require.Equal(t, message, e.Message, value)
		s = newServer(t, answer(404, envelope("RESOURCE_DOES_NOT_EXIST", message)))
		e = failureOf(t, newClient(t, patConfig(s.URL)).PutSecretBytes(t.Context(), "s", "k", []byte(value)))
		require.Equal(t, message, e.Message, value)
	}
	for value, want := range map[string]string{
		"does":                    "Scope foo [redacted] not exist in ñandú",
		"ñand":                    "Scope foo does not exist in [redacted]ú",
		"a foo does not b":        "Scope[redacted]exist in ñandú",
		"RESOURCE_DOES_NOT_EXIST": message,
	} {
		s := newServer(t, answer(404, envelope("RESOURCE_DOES_NOT_EXIST", message), "X-Request-Id", "req-1"))
		e := failureOf(t, newClient(t, patConfig(s.URL)).PutSecretString(t.Context(), "s", "k", Secret(value)))
		require.Equal(t, want, e.Message)
		require.Equal(t, NotFound, e.Kind)
		require.Equal(t, "RESOURCE_DOES_NOT_EXIST", e.ErrorCode, "a code that we know stays")
		require.Equal(t, "req-1", e.RequestID)
	}
}

func FuzzConceal(f *testing.F) {
	f.Add("bad value hunter2-hunter2", "hunter2-hunter2")
	f.Add("aGVsbG8gd29ybGQ=", "hello world")
	f.Add("xx", "")
	f.Add("redacted redacted", "redacted")
	f.Add("aaaaaaaaaaaaaaaaaaaaa", "aaaaaaaaa")
	f.Fuzz(func(t *testing.T, text, private string) {
		got := conceal(text, private)
		if utf8.RuneCountInString(private) < minPrivate {
			require.Equal(t, text, got)
			return
		}
		if strings.Contains(text, redacted) {
			return // the marks could not be told from the text
		}
		// What stands between the marks is the text's own, in order, and holds no part of the value.
		rest := text
		for _, piece := range strings.Split(got, redacted) {
			at := strings.Index(rest, piece)
			require.GreaterOrEqual(t, at, 0, "%q", got)
			rest = rest[at+len(piece):]
			require.NotContains(t, piece, private)
			for i := 0; i+minEcho <= len(private); i++ {
				require.NotContains(t, piece, private[i:i+minEcho])
			}
		}
	})
}
