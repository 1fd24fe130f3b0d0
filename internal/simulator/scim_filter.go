// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// filterLimit is the number of comparisons and connectives in one filter
// (Databricks REST reference, Account SCIM API v2.1).
const filterLimit = 200

// attributesOf gives the value of a plain attribute by its name in lower case.
type attributesOf = func(name string) string

// filter reports whether a resource with these attributes is wanted. Values are
// compared without regard to case, as RFC 7643 has it for strings by default.
type filter = func(attributesOf) bool

var filterTokens = regexp.MustCompile(`[()]|"(?:[^"\\]|\\.)*"|[^\s()"]+|"`)

// filterParser reads the filters of RFC 7644, section 3.4.2.2, as far as
// Databricks documents them: eq, co, sw and ne, joined with and and or.
type filterParser struct {
	tokens []string
	names  []string // of attributes
	nodes  int
	failed bool
}

func parseFilter(text string, names []string) (filter, *refusal) {
	p := &filterParser{tokens: filterTokens.FindAllString(text, -1), names: names}
	wanted := p.anyOf()
	if p.nodes > filterLimit {
		return nil, refuse(http.StatusBadRequest, "INVALID_FILTER", "The filter has too many nodes.")
	}
	if p.failed || len(p.tokens) > 0 {
		return nil, refuseSCIM(http.StatusBadRequest, "invalidFilter", "The filter "+text+" is malformed or not supported.")
	}
	return wanted, nil
}

// next takes the next token, "" at the end.
func (p *filterParser) next() string {
	if len(p.tokens) == 0 {
		return ""
	}
	token := p.tokens[0]
	p.tokens = p.tokens[1:]
	return token
}

// take takes the next token if it is this word.
func (p *filterParser) take(word string) bool {
	if len(p.tokens) == 0 || !strings.EqualFold(p.tokens[0], word) {
		return false
	}
	p.next()
	return true
}

func (p *filterParser) anyOf() filter {
	left := p.allOf()
	for p.take("or") {
		p.nodes++
		a, b := left, p.allOf()
		left = func(of attributesOf) bool { return a(of) || b(of) }
	}
	return left
}

func (p *filterParser) allOf() filter {
	left := p.comparison()
	for p.take("and") {
		p.nodes++
		a, b := left, p.comparison()
		left = func(of attributesOf) bool { return a(of) && b(of) }
	}
	return left
}

func (p *filterParser) comparison() filter {
	if p.take("(") {
		inner := p.anyOf()
		p.failed = p.failed || !p.take(")")
		return inner
	}
	p.nodes++
	name, operator, value := strings.ToLower(p.next()), strings.ToLower(p.next()), p.next()
	if strings.HasPrefix(value, `"`) {
		if json.Unmarshal([]byte(value), &value) != nil {
			p.failed = true
		}
	} else if value != "true" && value != "false" {
		p.failed = true
	}
	value = strings.ToLower(value)
	holds := map[string]func(s, with string) bool{
		"eq": func(s, with string) bool { return s == with },
		"ne": func(s, with string) bool { return s != with },
		"co": strings.Contains,
		"sw": strings.HasPrefix,
	}[operator]
	if holds == nil || !slices.Contains(p.names, name) {
		p.failed = true
	}
	return func(of attributesOf) bool { return holds(strings.ToLower(of(name)), value) }
}
