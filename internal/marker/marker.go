// SPDX-License-Identifier: MPL-2.0

// Package marker formats and parses the mark that ends the comment, or the display name, of everything that a mount makes at
// Databricks. A rollback finds an object by the nonce in its mark. Tidy reads from the mark alone, without an index, which
// mount made the object and when it can no longer be needed.
package marker

import (
	"crypto/rand"
	"encoding/hex"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// MaxComment is the longest comment that Comment returns, in bytes. Databricks documents no limit; AWS's integration keeps to
// 255 (AWS Secrets Manager guide, Databricks personal access tokens).
const MaxComment = 255

// Mark identifies an object that a mount made. Its text form is stored at Databricks, so it must not change:
//
//	vault:<mount id>:<nonce>:<Unix time>[:kept]
type Mark struct {
	MountID string    // 1 to 64 letters, digits and dashes
	Nonce   string    // 32 lower-case hex digits, different for every object
	Until   time.Time // the latest end of the credential; whole seconds, UTC when parsed

	// Stored is set if a storage entry of the mount holds the credential, not a lease: that of a static role, or the config.
	Stored bool
}

// NewNonce returns 128 random bits in hex.
func NewNonce() string {
	var raw [16]byte
	rand.Read(raw[:]) // never fails
	return hex.EncodeToString(raw[:])
}

// String returns the mark in its text form.
func (m Mark) String() string {
	text := "vault:" + m.MountID + ":" + m.Nonce + ":" + strconv.FormatInt(m.Until.Unix(), 10)
	if m.Stored {
		text += ":kept"
	}
	return text
}

// MountPrefix returns what the text form of every mark of the mount begins with.
func MountPrefix(mountID string) string { return "vault:" + mountID + ":" }

var form = regexp.MustCompile(`(?:^| )vault:([0-9A-Za-z-]{1,64}):([0-9a-f]{32}):([0-9]{1,12})(:kept)?$`)

// Parse returns the mark at the end of a comment, and false where there is none. Text before it, which callers can influence,
// is never taken for a mark.
func Parse(comment string) (Mark, bool) {
	parts := form.FindStringSubmatch(comment)
	if parts == nil {
		return Mark{}, false
	}
	until, err := strconv.ParseInt(parts[3], 10, 64)
	if err != nil {
		return Mark{}, false
	}
	return Mark{MountID: parts[1], Nonce: parts[2], Until: time.Unix(until, 0).UTC(), Stored: parts[4] != ""}, true
}

// Comment joins the text and the mark, in MaxComment bytes at most. Control characters become spaces, and text that is too long
// is cut; the mark never is.
func (m Mark) Comment(text string) string {
	end := m.String()
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return ' '
		}
		return r
	}, text)
	text = strings.TrimSpace(text)
	if room := MaxComment - len(end) - 1; len(text) > room {
		const cut = "..."
		text = text[:room-len(cut)]
		for !utf8.ValidString(text) {
			text = text[:len(text)-1]
		}
		text += cut
	}
	if text == "" {
		return end
	}
	return text + " " + end
}
