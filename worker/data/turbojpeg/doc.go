// Package turbojpeg decodes JPEG with Debian's libturbojpeg0-dev, where it is built with the tag turbojpeg.
package turbojpeg
