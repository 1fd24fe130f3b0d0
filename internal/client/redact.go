// SPDX-License-Identifier: MPL-2.0

package client

import (
	"net/url"
	"regexp"
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
