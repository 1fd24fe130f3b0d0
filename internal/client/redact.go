// SPDX-License-Identifier: MPL-2.0

package client

import (
	"encoding/base64"
	"encoding/json"
	"html"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxMessage bounds what we repeat of a message, in bytes.
const maxMessage = 1024

// credentialText matches what looks like a credential of any kind: personal access tokens ("dapi…") and OAuth secrets
// ("dose…") of Databricks, JSON web tokens, and whatever follows the word "Bearer".
var credentialText = regexp.MustCompile(`(?i)(dapi|dose)[0-9a-z][0-9a-z._-]{7,}|eyJ[0-9a-z_-]{6,}(\.[0-9a-z_-]*){0,4}|\bbearer\s+[0-9a-z._~+/=-]{6,}`)

// userPart matches the user part of a URL, such as that of a proxy.
var userPart = regexp.MustCompile(`//[^/\s@"]+@`)

// scrub replaces the given secrets, and whatever looks like a credential, by "[redacted]".
func scrub(text string, secrets ...string) string {
	for _, secret := range secrets {
		if secret == "" {
			continue
		}
		text = strings.ReplaceAll(text, secret, redacted)
		if escaped := url.QueryEscape(secret); escaped != secret {
			text = strings.ReplaceAll(text, escaped, redacted)
		}
	}
	text = userPart.ReplaceAllString(text, "//"+redacted+"@")
	return credentialText.ReplaceAllString(text, redacted)
}

// clean makes a text fit to be shown: scrubbed, on one line, and of [maxMessage] bytes at most.
func clean(text string, secrets ...string) string {
	text = strings.ToValidUTF8(text, "�")
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}), " ")
	text = scrub(text, secrets...)
	if len(text) <= maxMessage {
		return text
	}
	const ellipsis = "…"
	end := maxMessage - len(ellipsis)
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + ellipsis
}

const (
	// minPrivate is how many characters a private value must have to be concealed. Replacing one of fewer would wreck every
	// message, and hide nothing that could not be guessed.
	minPrivate = 4
	// minEcho is how many bytes in a row a text must share with a private value to count as a part of it.
	minEcho = 8
)

// conceal replaces a private value in a text that may repeat it: all of it, or [minEcho] bytes or more of it, as it is or
// encoded in a way in which an answer may quote it. Values of less than [minPrivate] characters stay.
func conceal(text, private string) string {
	if utf8.RuneCountInString(private) < minPrivate {
		return text
	}
	quoted, _ := json.Marshal(private) // a string can always be marshalled
	quotedInGo := strconv.Quote(private)
	forms := []string{
		private,
		strings.Join(strings.Fields(private), " "),
		base64.RawStdEncoding.EncodeToString([]byte(private)),
		base64.RawURLEncoding.EncodeToString([]byte(private)),
		string(quoted[1 : len(quoted)-1]),
		quotedInGo[1 : len(quotedInGo)-1],
		url.QueryEscape(private),
		url.PathEscape(private),
		html.EscapeString(private),
	}
	hidden := make([]bool, len(text))
	for i, form := range forms {
		if len(form) >= minPrivate && (i == 0 || form != private) {
			markShared(hidden, text, form)
		}
	}
	var b strings.Builder
	for i := range len(text) {
		switch {
		case !hidden[i]:
			b.WriteByte(text[i])
		case i == 0 || !hidden[i-1]:
			b.WriteString(redacted)
		}
	}
	return b.String()
}

// markShared marks the bytes of every run of [minEcho] bytes or more that the text shares with the private value, and of
// every whole value that is shorter than that. Its time is linear in both lengths.
func markShared(marks []bool, text, private string) {
	size := min(minEcho, len(private))
	shared := map[string]bool{}
	for i := 0; i+size <= len(text); i++ {
		shared[text[i:i+size]] = false
	}
	for i := 0; i+size <= len(private); i++ {
		if _, ok := shared[private[i:i+size]]; ok {
			shared[private[i:i+size]] = true
		}
	}
	for i := 0; i+size <= len(text); i++ {
		if shared[text[i:i+size]] {
			for j := range size {
				marks[i+j] = true
			}
		}
	}
}

var (
	errorCodeText = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,63}$`)
	requestIDText = regexp.MustCompile(`^[A-Za-z0-9_.:/+=-]{1,128}$`)
)

// word returns the text if it has the form and holds nothing that looks like a credential, else nothing.
func word(form *regexp.Regexp, text string, secrets ...string) string {
	if !form.MatchString(text) || scrub(text, secrets...) != text {
		return ""
	}
	return text
}
