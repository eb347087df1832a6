package figures

import (
	"image"
)

// letters are drawn as strokes on a grid of 4 x 6, its upper left corner 00, with room below the line down to 8. A pair
// of digits is a point, x before y; a space ends a stroke.
var letters = map[rune]string{
	' ': "", '!': "2024 2626", '"': "1012 3032", '#': "1016 3036 0242 0444", '%': "0640 0010110100 3545463635",
	'\'': "2022", '(': "30121436", ')': "10323416", '*': "2125 0244 0442", '+': "2125 0343", ',': "252617",
	'-': "0343", '.': "2526", '/': "0640", ':': "2323 2626", ';': "2323 252617", '<': "410345", '=': "0242 0444",
	'>': "014305", '?': "01103041422324 2626", '[': "30101636", ']': "10303616", '_': "0646",
	'0': "103041453616050110", '1': "112026 1636", '2': "01103041420646", '3': "01103041423313 334445361605",
	'4': "36300444", '5': "400003334445361605", '6': "3010010516364544331304", '7': "004016",
	'8': "103041423313020110 13040516364544 4433", '9': "1636454130100102133342",
	'A': "062046 1434", 'B': "06003041423303 3344453606", 'C': "4130100105163645", 'D': "00063645413000",
	'E': "40000646 0333", 'F': "400006 0333", 'G': "41301001051636454323", 'H': "0006 4046 0343",
	'I': "1030 2026 1636", 'J': "4045361605", 'K': "0006 4003 0346", 'L': "000646", 'M': "0600234046",
	'N': "06004640", 'O': "103041453616050110", 'P': "06003041423303", 'Q': "103041453616050110 3446",
	'R': "06003041423303 2346", 'S': "413010010213334445361605", 'T': "0040 2026", 'U': "000516364540",
	'V': "002640", 'W': "0016233640", 'X': "0046 4006", 'Y': "002340 2326", 'Z': "00400646",
	'a': "12324346 441405163645", 'b': "0006 0312324345361605", 'c': "4332120305163645",
	'd': "4046 4332120305163645", 'e': "04444332120305163645", 'f': "40302126 1232",
	'g': "4247381807 4332120305163645", 'h': "0006 0312324346", 'i': "2226 2020", 'j': "222718 2020",
	'k': "0006 4204 1446", 'l': "2026", 'm': "0206 03122326 23324346", 'n': "0206 0312324346",
	'o': "123243453616050312", 'p': "0208 0312324345361605", 'q': "4248 4332120305163645", 'r': "0206 03123243",
	's': "43321203143445361605", 't': "20253646 0242", 'u': "0205163645 4246", 'v': "022642",
	'w': "0216233642", 'x': "0246 4206", 'y': "0226 4218", 'z': "02420646",
}

// unknown stands for a letter that there is none of.
const unknown = "0040460600"

// Of a letter the height of a capital, which is the text's size, what it is to the next one, and the gap in that.
const (
	letterGrid    = 6.0
	letterAdvance = 6.0
	letterGap     = 2.0
)

// length is the text's, in pixels.
func (t text) length() float64 {
	n := float64(len([]rune(t.words)))
	return max(n*letterAdvance-letterGap, 0) * t.size / letterGrid
}

func (t text) paint(m *image.RGBA) {
	unit := t.size / letterGrid
	x, y := t.at.X, t.at.Y-t.size
	switch t.anchor {
	case "middle":
		x -= t.length() / 2
	case "end":
		x -= t.length()
	}
	for _, r := range t.words {
		strokes, ok := letters[r]
		if !ok {
			strokes = unknown
		}
		var points []Point
		for i := 0; i < len(strokes); i++ {
			if strokes[i] != ' ' {
				points = append(points, Point{x + float64(strokes[i]-'0')*unit, y + float64(strokes[i+1]-'0')*unit})
				i++
			}
			if i+1 >= len(strokes) || strokes[i] == ' ' {
				line{points: points, width: max(t.size/8, 1.1), ink: t.ink}.paint(m)
				points = nil
			}
		}
		x += letterAdvance * unit
	}
}
